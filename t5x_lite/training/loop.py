"""The training loop: the order of operations, and the reason for it.

At each step: read the metrics of the step before; evaluate, if due; save, if due; stop, if
due; take a batch; start the step. Metrics are read one step late, so that the device never
waits for the host. They are read before anything is evaluated or saved, so that a broken
state is never kept. Evaluation comes before saving, so that a checkpoint knows its metrics.
"""

import contextlib
import dataclasses
import signal

import jax
from jax.experimental import multihost_utils

from t5x_lite import errors
from t5x_lite.training import guard as update_guard


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
  """Stops when an evaluation metric has not improved for some evaluations.

  Attributes:
    metric: name in the evaluation's metrics, such as 'quickstart_sentiment/accuracy'.
    mode: 'max' or 'min': what is better.
    patience: evaluations without a new best value before training ends.
  """

  metric: str
  mode: str = 'max'
  patience: int = 5

  def __post_init__(self):
    if self.mode not in ('max', 'min'):
      raise errors.UserError(f"EarlyStopping.mode is 'max' or 'min', not {self.mode!r}")


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """When what happens. Steps are counted from the start of the run, over restarts.

  Attributes:
    train_steps: the step at which training ends.
    eval_period: steps between evaluations; None for none. A new run is evaluated before its
      first step, too, and every run after its last.
    checkpoint_period: steps between checkpoints; the last step is always saved.
    early_stopping: `EarlyStopping`, or None.
  """

  train_steps: int
  eval_period: int | None = None
  checkpoint_period: int = 1000
  early_stopping: EarlyStopping | None = None

  def __post_init__(self):
    for name in ('train_steps', 'eval_period', 'checkpoint_period'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise errors.UserError(f'{name.upper()}={value} must be at least 1')


@dataclasses.dataclass
class _Best:
  """The best evaluation so far; it travels in the checkpoint's metadata."""

  value: float | None = None
  step: int | None = None
  evaluations_since: int = 0

  def update(self, config, metrics, step):
    if config.metric not in metrics:
      raise errors.UserError(
        f'EarlyStopping.metric={config.metric!r} is not among the metrics of the evaluation: '
        + ', '.join(sorted(metrics))
      )
    value = metrics[config.metric]
    sign = 1 if config.mode == 'max' else -1
    # Compared with the best there was, not with the evaluation before.
    if self.value is None or sign * value > sign * self.value:
      self.value, self.step, self.evaluations_since = value, step, 0
    else:
      self.evaluations_since += 1


def train(
  state,
  train_step,
  batches,
  config,
  *,
  guard,
  folder,
  checkpoints,
  metadata,
  evaluate,
  report,
  keep=None,
):
  """Runs the loop until it is done, told to stop, or broken.

  Args:
    state: `TrainState`; its buffers are donated to the first step.
    train_step: function (state, batch) -> (state, metrics on the device).
    batches: iterator of batches on the devices, with `get_state`, see `prefetch`.
    config: `LoopConfig`.
    guard: `guard.GuardConfig`.
    folder: `run_folder.RunFolder`.
    checkpoints: `checkpoints.manager.CheckpointManager`.
    metadata: JSON-able dict kept in every checkpoint. Of the checkpoint that was resumed it
      holds 'early_stopping'.
    evaluate: function (state, step) -> dict of floats, or None.
    report: a `monitoring.report.Report`.
    keep: function of the state that returns what of it a checkpoint holds; None for all of it.

  Returns:
    (state, reason it ended): 'done', 'stopped early' or 'terminated'.

  Raises:
    UserError: the loss or the gradient is not finite, more often in a row than `guard` allows; or
      the last checkpoint could not be written.
  """
  first_step = step = int(state.step)
  best = _Best(**metadata.get('early_stopping') or {})
  pending = None  # (step, metrics on the device) of the step that runs
  with _termination() as is_terminated:
    while True:
      terminated = is_terminated(step)
      last = step >= config.train_steps or terminated
      eval_due = _due(step, config.eval_period, last) and (step > first_step or step == 0)
      save_due = _due(step, config.checkpoint_period, last) and step > first_step

      if pending and (eval_due or save_due or last):
        _read(pending, guard, report, checkpoints)
        pending = None

      metrics = None
      if eval_due and evaluate is not None and not terminated:
        with report.during('eval'):
          metrics = evaluate(state, step)
        report.evaluated(step, metrics)
        if config.early_stopping:
          best.update(config.early_stopping, metrics, step)
          last = last or best.evaluations_since >= config.early_stopping.patience
      if save_due or (last and step > first_step):
        with report.during('checkpoint'):
          for said in folder.make_again():
            report.message(said)
          report.keep()  # Before the checkpoint, from which these steps are not done again.
          checkpoints.save(
            step,
            keep(state) if keep else state,
            batches_state=batches.get_state(),
            metadata={**metadata, 'early_stopping': dataclasses.asdict(best)},
            metrics=metrics,
          )
      if last:
        break

      with report.during('data_wait') as wait:
        batch = next(batches)
        if pending and not _is_done(pending):
          wait.part = 'step'  # The devices did not wait.
      with report.starting(step + 1, compiles=step == first_step):
        state, device_metrics = train_step(state, batch)
      step += 1
      if pending:
        _read(pending, guard, report, checkpoints)
      pending = (step, device_metrics)
      for failure in checkpoints.failures():
        report.message(f'{failure}; the run goes on, and the next save is tried as usual')
    with report.during('checkpoint'):
      checkpoints.wait()
  if terminated:
    return state, 'terminated'
  return state, 'done' if step >= config.train_steps else 'stopped early'


def _due(step, period, last):
  return period is not None and (last or step % period == 0)


def _is_done(pending):
  _, metrics = pending
  return metrics['loss'].is_ready()


def _read(pending, guard, report, checkpoints):
  """Waits for the metrics of one step, checks and reports them."""
  step, metrics = pending
  metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
  report.stepped(step, metrics)
  wrong, too_often = update_guard.judge(guard, step, metrics)
  if too_often:
    with contextlib.suppress(errors.UserError):  # That a save failed is not what stops the run.
      checkpoints.wait()
    good = checkpoints.latest_step()
    kept = 'there is no checkpoint yet' if good is None else f'the last good checkpoint is {good}'
    raise errors.UserError(
      f'{wrong}; {kept}. Try a lower LEARNING_RATE, a longer warm-up, train.clip_global_norm=1.0, '
      'DTYPE=float32, or a larger SKIPPED_UPDATES'
    )
  if wrong:
    report.message(wrong)


@contextlib.contextmanager
def _termination():
  """Yields a function of the step that tells whether SIGTERM asks the run to end there.

  A scheduler sends that signal before it takes the machine.
  """
  if jax.process_count() > 1:
    # jax hears it on any host, and has all of them stop at a step that none has begun.
    yield multihost_utils.reached_preemption_sync_point
    return
  requests = []
  try:
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: requests.append(signum))
  except ValueError:  # Not in the main thread: whoever runs us there stops us otherwise.
    yield lambda step: False
    return
  try:
    yield lambda step: bool(requests)
  finally:
    signal.signal(signal.SIGTERM, previous)
