"""`t5x-lite train`: pre-training and fine-tuning."""

import typing
from collections.abc import Callable, Mapping, Sequence

if typing.TYPE_CHECKING:
  from t5x_lite.checkpoints.warm_start import WarmStart
  from t5x_lite.data.batches import DatasetConfig
  from t5x_lite.evaluation.evaluator import EvaluationConfig
  from t5x_lite.losses import LossConfig
  from t5x_lite.models.config import T5Config
  from t5x_lite.monitoring.report import ReportConfig
  from t5x_lite.sharding import MeshConfig
  from t5x_lite.training.guard import GuardConfig
  from t5x_lite.training.loop import LoopConfig

HELP = 'train or fine-tune a model, or resume a run that was stopped'
USES_GIN = True
DEFAULT_GIN_FILES = ()


def add_arguments(parser):
  """Adds nothing: training is configured by gin."""
  del parser


def run(args):
  """Trains as the parsed gin configuration says."""
  from t5x_lite import configuration, modules

  return configuration.configured(train)(
    user_modules=modules.absolute(args.module), started=args.started
  )


def train(
  *,
  model_dir: str,
  model: 'T5Config',
  dataset: 'DatasetConfig',
  loop: 'LoopConfig',
  optimizer: Callable,
  learning_rate: Callable | float,
  loss: 'LossConfig',
  mesh: 'MeshConfig',
  checkpoint_manager: Callable,
  evaluation: 'EvaluationConfig | None' = None,
  guard: 'GuardConfig | None' = None,
  report: 'ReportConfig | None' = None,
  seed: int = 0,
  num_microbatches: int = 1,
  clip_global_norm: float | None = None,
  warm_start: 'WarmStart | None' = None,
  trainable_parameters: str = '.*',
  checkpoint_parameters: str = 'all',
  base_checkpoint_path: str | None = None,
  objective: str = 'span_corruption',
  objective_settings: Mapping[str, typing.Any] | None = None,
  mixing_maximum: int | None = None,
  mixing_temperature: float = 1.0,
  skipped_records: int = 0,
  user_modules: Sequence[str] = (),
  started: float | None = None,
):
  """Trains a model, from MODEL_DIR's latest checkpoint if there is one.

  Args:
    model_dir: folder of the run; made if it does not exist.
    model: what to train.
    dataset: what to train on.
    loop: how long, and what happens when.
    optimizer: function of a learning rate or schedule that returns an optax optimizer.
    learning_rate: schedule, a function of the step; or a rate that stays the same.
    loss: what the loss is made of.
    mesh: the devices.
    checkpoint_manager: function of a folder that returns a `CheckpointManager`.
    evaluation: what is evaluated during training, or None.
    guard: which updates are skipped; by default none.
    report: what is watched.
    seed: of the parameters and of the dropout.
    num_microbatches: parts of a batch whose gradients are accumulated before the update.
    clip_global_norm: largest norm of the gradient, or None.
    warm_start: the checkpoint that a new run starts from, and what is taken from it; or None.
    trainable_parameters: regular expression for the names of the parameters that are trained.
    checkpoint_parameters: 'all', or 'trainable' to keep those alone, and of the others, which are
      those of the checkpoint that the run starts from, the path and the hash.
    base_checkpoint_path: where the base is, if that of a checkpoint without it has moved.
    objective: what tasks do that leave it open, see `data.objectives`.
    objective_settings: its arguments by name.
    mixing_maximum: examples of a task that count at most in a mixture's proportional rates.
    mixing_temperature: what brings these rates nearer to each other, from 1 on.
    skipped_records: damaged records of the data that may be left out; with one more the run stops.
    user_modules: the user's modules that register tasks, kept for evaluation and inference.
    started: when the program began, in seconds since 1970; None for now.

  Returns:
    The exit status.
  """
  import dataclasses
  import functools

  import jax

  import t5x_lite.tasks  # noqa: F401 - registers them
  from t5x_lite import choices, configuration, errors, remote, sharding
  from t5x_lite.checkpoints import bases, origins
  from t5x_lite.checkpoints import warm_start as warm_starts
  from t5x_lite.data import batches as data_batches
  from t5x_lite.data import damaged_records, model_vocabulary
  from t5x_lite.data import vocabulary as data_vocabulary
  from t5x_lite.evaluation import evaluator, inference
  from t5x_lite.hosts import job, streams
  from t5x_lite.models import adapters, architectures
  from t5x_lite.monitoring import progress, throughput
  from t5x_lite.monitoring import report as reports
  from t5x_lite.training import guard as update_guard
  from t5x_lite.training import loop as training_loop
  from t5x_lite.training import prefetch, run_folder, schedules
  from t5x_lite.training import state as training_state
  from t5x_lite.training import step as training_step

  # What the run is, checked before anything is made.
  model_dir = remote.run_path(model_dir)
  device_mesh = sharding.make_mesh(mesh)
  sharding.check_batch_size(dataset.batch_size, device_mesh, num_microbatches)
  if clip_global_norm is not None and clip_global_norm <= 0:
    raise errors.UserError(f'train.clip_global_norm={clip_global_norm} must be positive, or None')
  if checkpoint_parameters not in ('all', 'trainable'):
    raise errors.UserError(
      f"CHECKPOINT_PARAMETERS={checkpoint_parameters!r} may be 'all' or 'trainable'"
    )
  adapters.check_packing(model.adapter, dataset.pack)
  warm_start = warm_start or warm_starts.WarmStart()
  guard = guard or update_guard.GuardConfig()
  choices.choose(
    objective=objective,
    objective_settings=dict(objective_settings or {}),
    mixing_maximum=mixing_maximum,
    mixing_temperature=mixing_temperature,
    skipped_records=skipped_records,
  )
  damaged_records.begin()
  model_vocabulary.choose_from(model_dir, warm_start.path)
  vocabulary = data_batches.output_features(dataset.mixture_or_task_name)['targets'].vocabulary
  data_vocabulary.check_fits(vocabulary, model.vocab_size)
  metadata = {
    'model': dataclasses.asdict(model),
    'vocabulary': data_vocabulary.fingerprint(vocabulary),
    'mixture_or_task_name': dataset.mixture_or_task_name,
    'task_feature_lengths': dict(dataset.task_feature_lengths),
    'objective': objective,
    'objective_settings': dict(objective_settings or {}),
    'modules': list(user_modules),
    'gin': configuration.operative_config(),
    'trainable_parameters': trainable_parameters,
    'checkpoint_parameters': checkpoint_parameters,
  }
  is_writer = jax.process_index() == 0
  folder = run_folder.RunFolder(model_dir, is_writer=is_writer)
  folder.lock()
  checkpoints = checkpoint_manager(model_dir / 'checkpoints')
  resumed_step, said = checkpoints.set_damaged_aside()
  resumed_step = job.agreed(resumed_step)
  share = streams.share(
    sharding.rows_of_hosts(device_mesh, dataset.batch_size),
    jax.process_index(),
    dataset.batch_size,
    saved=() if resumed_step is None else checkpoints.streams(resumed_step),
  )
  batches = streams.HostBatches(
    share,
    functools.partial(
      data_batches.train_batches,
      dataset,
      has_encoder=model.has_encoder,
      drawn_seed=job.agreed(data_batches.draw_seed()),
    ),
  )
  lengths = dataset.task_feature_lengths
  inputs_length, targets_length = lengths.get('inputs', 0), lengths['targets']
  together = max if model.has_encoder else sum
  model.check_length(together((model.prompt_length + inputs_length, targets_length)))

  # Where it starts from.
  first_step, origin = resumed_step or 0, None
  if resumed_step is not None:
    origin = origins.open_step(checkpoints, resumed_step, base_checkpoint_path)
    bases.check_resumed(origin.path, origin.metadata, metadata)
    metadata['early_stopping'] = origin.metadata.get('early_stopping')
  elif warm_start.path is not None:
    origin = origins.open_origin(warm_start.path, base_checkpoint_path)
    if warm_start.restore_optimizer_state:
      first_step = warm_starts.step_to_go_on_from(origin, loop.train_steps)
  elif base_checkpoint_path is not None:
    raise errors.UserError(
      f'BASE_CHECKPOINT_PATH={base_checkpoint_path} is for INITIAL_CHECKPOINT_PATH, which is None'
    )
  if origin is not None:
    origins.check_model(origin, model)
    if origin.vocabulary is not None and (
      resumed_step is not None or not warm_start.grow_vocabulary
    ):
      data_vocabulary.check_same(
        origin.vocabulary,
        metadata['vocabulary'],
        model=origin.path,
        task=dataset.mixture_or_task_name,
      )

  module = architectures.create(model)
  schedule = schedules.of(learning_rate)
  transformation = optimizer(schedule)
  folder.make()
  batch_sharding = sharding.batch_sharding(device_mesh)
  with (
    folder,
    sharding.activate(device_mesh, mesh.rules),
    checkpoints,
    prefetch.Prefetcher(
      batches,
      lambda batch: sharding.put_rows(batch, share.rows, device_mesh, dataset.batch_size),
      snapshot_period=loop.checkpoint_period,
    ) as device_batches,
    progress.Progress(loop.train_steps, first_step, active=is_writer) as display,
  ):
    abstract = training_state.abstract_state(
      module,
      transformation,
      device_mesh,
      mesh.rules,
      trainable_parameters,
      mesh.shard_optimizer_state,
    )
    abstract_guard = update_guard.abstract(guard, sharding.replicated(device_mesh))
    guard_state = None
    keeps_all = checkpoint_parameters == 'all'
    if resumed_step is not None:
      state = origin.restore_state(abstract)
      metadata['base'] = origin.metadata.get('base')
      guard_state = checkpoints.restore_guard(resumed_step, abstract_guard)
      device_batches.set_state(checkpoints.batches_state(resumed_step, share.names))
      said = [*said, f'resuming {model_dir} at step {resumed_step}']
    else:
      if not keeps_all:
        metadata['base'] = bases.describe(origin, warm_start, abstract.split_params()[1])
      state, said = warm_starts.begin(warm_start, origin, module, transformation, abstract, seed)
    state = state.replace(guard=guard_state or update_guard.create(abstract_guard))
    for line in [*said, sharding.summary(state)]:
      display.message(line)

    # What the run leaves behind besides its checkpoints.
    files = remote.Mirror(model_dir)
    folder.write(
      files.folder,
      {'config.gin': metadata['gin'], 'sharding.txt': sharding.report(state) + '\n'},
      lambda folder: data_vocabulary.save(vocabulary, folder / 'vocabulary'),
    )
    train_step = training_step.jit_train_step(
      abstract.replace(guard=abstract_guard),
      batch_sharding,
      model=module,
      optimizer=transformation,
      loss_config=loss,
      schedule=schedule,
      seed=seed,
      num_microbatches=num_microbatches,
      shard_optimizer_state=mesh.shard_optimizer_state,
      clip_global_norm=clip_global_norm,
      guard=guard,
    )
    with reports.open_report(
      report or reports.ReportConfig(),
      files.folder,
      display,
      throughput.of_training(
        model,
        dataset.batch_size,
        (inputs_length, targets_length),
        trained_share=sharding.trainable_share(abstract),
      ),
      resumed_step=resumed_step,
      first_step=first_step,
      started=started,
      is_writer=is_writer,
      keep=files.push,
    ) as told:
      evaluate = None
      if evaluation is not None and loop.eval_period is not None:
        task_evaluator = evaluator.Evaluator(
          evaluation,
          inference.Inference(model, device_mesh, mesh.rules, on_batch=told.watchdog.beat),
          predictions_dir=files.folder / 'predictions',
          is_writer=is_writer,
        )

        def evaluate(state, step):
          return evaluator.flatten(task_evaluator.evaluate(state.params, step))

      state, reason = training_loop.train(
        state,
        train_step,
        device_batches,
        loop,
        guard=guard,
        folder=folder,
        checkpoints=checkpoints,
        metadata=metadata,
        evaluate=evaluate,
        report=told,
        keep=None if keeps_all else training_state.without_frozen,
      )
      told.ended(finished=reason != 'terminated')
    files.push()
    display.message(f'{reason} at step {int(state.step)}; the run is in {model_dir}')
  if reason == 'terminated' and jax.process_count() > 1:
    return errors.HostError.status  # For whoever started the hosts to start them again.
  return 0
