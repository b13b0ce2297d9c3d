"""`t5x-lite eval`: what the checkpoints of a run are worth."""

import typing
from collections.abc import Mapping, Sequence

if typing.TYPE_CHECKING:
  from t5x_lite.decoding.options import DecodingConfig
  from t5x_lite.sharding import MeshConfig

HELP = 'evaluate one, the latest or all checkpoints of a run'
USES_GIN = True
DEFAULT_GIN_FILES = ('runs/eval.gin',)

# What is better when it is lower, by a part of the metric's name.
_LOWER_IS_BETTER = ('loss', 'perplexity', 'bits', 'error', 'invalid', 'distance')


def add_arguments(parser):
  """Adds the flag that is not about what to evaluate."""
  parser.add_argument(
    '--glue_submission',
    action='store_true',
    help='predict the test sets of GLUE and SuperGLUE tasks, and write what their servers take to '
    'MODEL_DIR/submission',
  )


def run(args):
  """Evaluates as the parsed gin configuration says."""
  from t5x_lite import configuration

  configuration.configured(evaluate)(glue_submission=args.glue_submission)


def evaluate(
  *,
  model_dir: str,
  mesh: 'MeshConfig',
  decoding: 'DecodingConfig',
  mixture_or_task_name: str | Sequence[str] | None = None,
  task_feature_lengths: Mapping[str, int] | None = None,
  split: str = 'validation',
  predict_by: str = 'generation',
  checkpoint: str | int | Sequence[int] = 'latest',
  batch_size: int = 128,
  num_examples: int | None = None,
  dtype: str | None = None,
  weights: str | None = None,
  base_checkpoint_path: str | None = None,
  use_cached: bool = False,
  glue_submission: bool = False,
):
  """Evaluates checkpoints and prints a table of them.

  Writes MODEL_DIR/predictions/TASK-STEP.jsonl and a line a checkpoint of metrics/infer.jsonl.

  Args:
    model_dir: folder of the run.
    mesh: the devices.
    decoding: how answers are decoded.
    mixture_or_task_name: what to evaluate on, or several; None for what the run was trained on.
    task_feature_lengths: length of each feature; None for those of the run.
    split: split to evaluate on.
    predict_by: 'generation' or 'ranking', see `EvaluationConfig`.
    checkpoint: 'latest', 'all', a step, or several.
    batch_size: examples at a time, over all devices.
    num_examples: the most examples of each task, or None for all.
    dtype: of the activations, or None for the run's own.
    weights: 'bfloat16', 'int8', or None for float32.
    base_checkpoint_path: where the base of checkpoints without it is now, or None.
    use_cached: read the task from its cache.
    glue_submission: predict the test split in place of all that, for the leaderboards.
  """
  import sys
  import time

  import jax

  import t5x_lite.tasks  # noqa: F401 - registers them
  from t5x_lite import errors, remote
  from t5x_lite.evaluation import evaluator as evaluation
  from t5x_lite.evaluation import leaderboards, runs
  from t5x_lite.monitoring import metrics as monitoring

  opened = runs.open_run(
    model_dir, checkpoint, dtype=dtype, weights=weights, base_path=base_checkpoint_path
  )
  names = opened.find_tasks(mixture_or_task_name)
  is_writer = jax.process_index() == 0
  files = remote.Mirror(opened.folder)
  model = opened.model(mesh)
  config = evaluation.EvaluationConfig(
    mixture_or_task_name=names,
    task_feature_lengths=task_feature_lengths or opened.task_feature_lengths,
    split='test' if glue_submission else split,
    batch_size=batch_size,
    num_examples=num_examples,
    predict_by=predict_by,
    decoding=decoding,
    use_cached=use_cached,
  )
  if glue_submission:
    if len(opened.steps) > 1:
      raise errors.UserError('--glue_submission is of one checkpoint: give CHECKPOINT a step')
    leaderboards.check_names(evaluation.task_names(config))
    params = opened.restore(opened.steps[0], model)
    predictions = evaluation.post_processed(config, model, params)
    if is_writer:
      written = leaderboards.write_submission(predictions, files.folder / 'submission')
      files.push()
      print('\n'.join([*written, f'in {opened.folder / "submission"}']))
    return
  evaluator = evaluation.Evaluator(config, model, files.folder / 'predictions', is_writer)
  results = {}
  with monitoring.MetricWriter(files.folder, active=is_writer) as writer:
    for step in opened.steps:
      start = time.monotonic()
      params = opened.restore(step, model)
      results[step] = evaluation.flatten(evaluator.evaluate(params, step))
      del params  # Before the next ones are read.
      writer.write('infer', step, {'split': split, **results[step]})
      if is_writer:
        seconds = time.monotonic() - start
        print(f'evaluated checkpoint {step} in {seconds:.1f} s', file=sys.stderr, flush=True)
  if is_writer:
    files.push()
    print(table({step: told(metrics) for step, metrics in results.items()}))


def told(metrics: Mapping[str, float]) -> dict[str, float]:
  """Leaves out, of tasks with metrics of their own, what is about the tokens but for the loss."""
  of_tokens = ('loss', 'perplexity', 'bits_per_byte', 'token_accuracy', 'z_loss')
  measured = {
    name.rpartition('/')[0] for name in metrics if name.rpartition('/')[2] not in of_tokens
  }

  def is_told(task, metric):
    return metric not in of_tokens or (metric == 'loss' if task in measured else metric != 'z_loss')

  return {name: value for name, value in metrics.items() if is_told(*name.rpartition('/')[::2])}


def table(results: Mapping[int, Mapping[str, float]]) -> str:
  """Lays out metrics by step: a row a metric, a column a checkpoint, the best of a row marked."""
  steps = list(results)
  names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
  rows = [['', *(f'step {step} ' for step in steps)]]
  for name in names:
    values = [results[step].get(name) for step in steps]
    best = _best(name, values) if len(steps) > 1 else None
    cells = ('- ' if v is None else f'{v:.4f}' + ('*' if v == best else ' ') for v in values)
    rows.append([name, *cells])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for name, *cells in rows:
    padded = (f'{cell:>{width}}' for cell, width in zip(cells, widths[1:], strict=True))
    lines.append('  '.join([f'{name:<{widths[0]}}', *padded]).rstrip())
  if len(steps) > 1:
    lines.append('* the best of these checkpoints')
  return '\n'.join(lines)


def _best(name, values):
  """Returns the best value; None where all are alike."""
  known = {value for value in values if value is not None and value == value}  # No NaN.
  if len(known) < 2:
    return None
  metric = name.rpartition('/')[2]
  return min(known) if any(part in metric for part in _LOWER_IS_BETTER) else max(known)
