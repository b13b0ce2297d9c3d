"""What the training loop tells of itself, and to whom."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from t5x_lite import errors
from t5x_lite.monitoring import goodput, metrics, profiling, progress, throughput, watchdog


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """What is watched besides the metrics.

  Attributes:
    profile_steps: (first, last) of the steps to record, counted from 1; None for no profile.
    stall_seconds: after so long without a step, or a batch of an evaluation, the stacks of all
      threads are told; None for never.
  """

  profile_steps: Sequence[int] | None = None
  stall_seconds: float | None = 1800

  def __post_init__(self):
    steps, seconds = self.profile_steps, self.stall_seconds
    if steps is not None and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
      raise errors.UserError(f'PROFILE_STEPS={steps} must be None or (first, last), from 1 on')
    if seconds is not None and seconds <= 0:
      raise errors.UserError(f'STALL_SECONDS={seconds} must be positive, or None')


@dataclasses.dataclass
class Report:
  """Where a step's metrics go, and the clocks that run beside the loop.

  Attributes:
    writer: the files of metrics.
    progress: the display.
    throughput: counts tokens.
    goodput: counts seconds.
    watchdog: waits for signs of life.
    profile: records some steps.
    keep_files: makes what has been written last, see `remote.Mirror`.
  """

  writer: metrics.MetricWriter
  progress: progress.Progress
  throughput: throughput.Throughput
  goodput: goodput.Goodput
  watchdog: watchdog.Watchdog
  profile: profiling.ProfileWindow
  keep_files: Callable[[], None] = lambda: None

  def __post_init__(self):
    self._has_stepped = False

  def message(self, text):
    """Says a line."""
    self.progress.message(text)

  @contextlib.contextmanager
  def during(self, part):
    """Counts the time inside for one of `goodput.PARTS`; yields what `Goodput.during` does."""
    self.watchdog.beat()
    is_pause = part in ('eval', 'checkpoint')
    with self.throughput.paused() if is_pause else contextlib.nullcontext():
      with self.goodput.during(part) as stretch:
        yield stretch
    if is_pause:
      self.goodput.write()
    self.watchdog.beat()

  @contextlib.contextmanager
  def starting(self, step, compiles):
    """Surrounds the call that starts a step, and compiles it if it is the first of this process."""
    with contextlib.ExitStack() as stack:
      if compiles:
        self.goodput.begin_steps()
        stack.enter_context(self.goodput.during('compile'))
        stack.enter_context(self.watchdog.suspended())
      stack.enter_context(self.profile.step(step))
      yield

  def stepped(self, step, metrics):
    """Takes one step's metrics, after the step has finished."""
    self.watchdog.beat()
    self.profile.stepped(step)
    self.goodput.stepped(step)
    self.throughput.count(target_tokens=metrics['target_tokens'], tokens=metrics['tokens'])
    rates = self.throughput.report()
    if self._has_stepped:  # The first step was mostly compilation.
      metrics = metrics | rates
    self._has_stepped = True
    self.writer.write('train', step, metrics)
    self.progress.update(step, metrics)

  def evaluated(self, step, metrics):
    """Takes one evaluation's metrics."""
    self.writer.write('eval', step, metrics)
    lines = {}  # Of each task.
    for name, value in sorted(metrics.items()):
      task, _, metric = name.rpartition('/')
      lines.setdefault(task, []).append(f'{metric} {value:.4g}')
    for task, values in lines.items():
      self.message(f'step {step} evaluation of {task}: {"  ".join(values)}')

  def keep(self):
    """Makes what was reported so far last."""
    self.writer.flush()
    self.keep_files()

  def ended(self, finished):
    """Closes the accounts of the time, and says what became of it."""
    self.goodput.write(finished)
    self.message(self.goodput.summary())


@contextlib.contextmanager
def open_report(
  config: ReportConfig,
  model_dir,
  display: progress.Progress,
  speed: throughput.Throughput,
  *,
  resumed_step: int | None,
  first_step: int,
  started: float | None,
  is_writer: bool,
  keep: Callable[[], None],
):
  """Opens a `Report` on the folder of a run; what it has begun ends with the block.

  Args:
    config: `ReportConfig`.
    model_dir: the folder.
    display: where lines are said.
    speed: counts tokens.
    resumed_step: that of the run's own checkpoint from which it goes on; None for none.
    first_step: that the loop begins at.
    started: see `goodput.Goodput`.
    is_writer: whether this host writes the files.
    keep: see `Report.keep_files`.
  """
  clock = goodput.Goodput(model_dir, first_step, started=started, active=is_writer)
  profile = profiling.ProfileWindow(config.profile_steps, model_dir, display.message)
  with (
    metrics.MetricWriter(
      model_dir, resume_step=resumed_step or 0, active=is_writer, say=display.message
    ) as writer,
    watchdog.Watchdog(config.stall_seconds, model_dir, display.message) as dog,
    contextlib.closing(profile),
  ):
    clock.write()  # From now on a killed process has left a sign of life.
    yield Report(writer, display, speed, clock, dog, profile, keep)
