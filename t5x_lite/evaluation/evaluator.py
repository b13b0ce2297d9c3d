"""Evaluates seqio tasks: the loss of their targets, the metrics of what the model predicts."""

import contextlib
import dataclasses
import itertools
import json
import numbers
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from t5x_lite import errors, sharding
from t5x_lite.data import batches as data_batches
from t5x_lite.data import sources
from t5x_lite.evaluation import inference


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What to evaluate.

  Attributes:
    mixture_or_task_name: a registered seqio task, or a mixture, whose tasks are evaluated one
      by one.
    task_feature_lengths: length of each task feature, EOS included. Predictions are as long as
      the targets at most.
    split: the split to read; tasks of a mixture without it are left out.
    batch_size: examples at a time, over all devices.
    num_examples: read only so many examples of each task, from the start; None reads all.
    use_cached: read what `seqio_cache_tasks` wrote, not the source.
    seed: of random preprocessing, such as span corruption: the same at every evaluation.
  """

  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int]
  split: str = 'validation'
  batch_size: int = 128
  num_examples: int | None = None
  use_cached: bool = False
  seed: int = 0

  def __post_init__(self):
    if self.num_examples is not None and self.num_examples < 1:
      raise errors.UserError(f'num_examples={self.num_examples} must be at least 1, or None')


class LossEvaluator:
  """Measures the loss of given targets on batches that are kept in memory."""

  def __init__(self, model: inference.Inference, batches: Iterable[inference.Batch]):
    """Keeps all of `batches`: dicts of numpy features, all of one shape."""
    self._model = model
    self._batches = list(batches)

  def evaluate(self, params) -> dict[str, float]:
    """Returns 'loss', 'z_loss' and 'token_accuracy', see `Inference.loss`."""
    return self._model.loss(params, self._batches)


class Evaluator:
  """Evaluates one task, or each task of a mixture, as often as asked.

  The data is read once. Each task gets the loss of its targets ('loss', 'z_loss',
  'token_accuracy') and, if it has metric functions, their values, by `seqio.Evaluator` from
  what the model decodes greedily. In a job of several hosts each of them reads all examples
  and gets the same metrics, and the first writes the predictions.

  Attributes:
    tasks: names of the tasks.
  """

  def __init__(
    self,
    config: EvaluationConfig,
    model: inference.Inference,
    predictions_dir=None,
    is_writer: bool = True,
  ):
    """Reads the data.

    Args:
      config: what to evaluate.
      model: the model, on its mesh.
      predictions_dir: folder for TASK-STEP.jsonl, or None to keep no predictions.
      is_writer: whether this host writes them.

    Raises:
      UserError: an unknown task, split or length, or a batch that does not divide by the
        devices.
    """
    sharding.check_batch_size(config.batch_size, model.mesh)
    self._config = config
    self._model = model
    self._predictions_dir = predictions_dir if is_writer else None
    has_encoder = model.config.has_encoder
    batches = {name: _eval_batches(config, name, has_encoder) for name in _task_names(config)}
    # Only now, since it would fail in other words on what `eval_batches` refuses.
    self._seqio_evaluator = _seqio_evaluator(config, has_encoder)
    measured = {task.name: task for task in self._seqio_evaluator.eval_tasks}
    self._predicted = {
      name: _PredictedTask(measured[name], config.task_feature_lengths)
      for name in batches
      if name in measured
    }
    for name in self._predicted:
      # Metric functions see the examples in the order of this data set and no other.
      dataset = self._seqio_evaluator.cached_model_datasets[name]
      batches[name] = _numpy_batches(dataset, config.batch_size)
    with sources.readable_errors():
      self._batches = {name: list(rows) for name, rows in batches.items()}
    self._losses = {name: LossEvaluator(model, rows) for name, rows in self._batches.items()}

  @property
  def tasks(self) -> list[str]:
    return list(self._losses)

  def evaluate(self, params, step: int) -> dict[str, dict[str, float]]:
    """Returns the metrics by name, by task, and writes the predictions.

    Args:
      params: the parameters, on the model's mesh.
      step: the training step they are of, which is part of the name of the predictions' file.
    """
    results = self._metrics(params, step)
    for name, loss in self._losses.items():
      results.setdefault(name, {}).update(loss.evaluate(params))
    return {name: results[name] for name in self._losses}

  def _metrics(self, params, step):
    """Returns {task: {metric: float}} of the tasks that have metric functions."""
    if not self._predicted:
      return {}
    from seqio.metrics import ModelOutputType

    outputs = {name: self._outputs(name, params) for name in self._predicted}
    datasets = self._seqio_evaluator.cached_model_datasets

    def of(dataset):
      # seqio passes a data set to say which task it asks for.
      return next(outputs[name] for name in outputs if datasets[name] is dataset)

    model_fns = {
      ModelOutputType.PREDICTION: lambda dataset: list(enumerate(of(dataset).tokens)),
      ModelOutputType.PREDICTION_WITH_AUX: lambda dataset: (
        list(enumerate(of(dataset).tokens)),
        {'scores': list(of(dataset).scores)},
      ),
      ModelOutputType.SCORE: lambda dataset: list(enumerate(of(dataset).target_scores)),
    }
    future, _ = self._seqio_evaluator.evaluate(compute_metrics=True, step=step, model_fns=model_fns)
    if self._predictions_dir is not None:
      for name in outputs:
        self._write_predictions(name, outputs[name], step)
    return {name: _plain(metrics) for name, metrics in future.result().items()}

  def _outputs(self, name, params):
    """Runs the model on one task, for what its metric functions want."""
    task, batches = self._predicted[name], self._batches[name]
    num_examples = len(self._seqio_evaluator.cached_task_datasets[name])
    outputs = _Outputs()
    if task.wants_predictions:
      lengths = self._config.task_feature_lengths
      inputs = (data_batches.inputs_of(batch, lengths['inputs']) for batch in batches)
      decoded = list(self._model.predict(params, inputs, lengths['targets']))
      outputs.tokens = np.concatenate([each.tokens for each in decoded])[:num_examples]
      outputs.scores = np.concatenate([each.scores for each in decoded])[:num_examples]
    if task.wants_scores:
      scores = np.concatenate(list(self._model.score(params, batches)))
      outputs.target_scores = scores[:num_examples]
    return outputs

  def _write_predictions(self, name, outputs, step):
    split = self._config.split
    of_split = '' if split == 'validation' else f'-{split}'
    path = pathlib.Path(self._predictions_dir) / f'{name}{of_split}-{step}.jsonl'
    examples = self._seqio_evaluator.cached_task_datasets[name].as_numpy_iterator()
    features = self._predicted[name].output_features
    with atomic_file(path) as file:
      for i, example in enumerate(examples):
        line = example_texts(example, features)
        if outputs.tokens is not None:
          line['prediction'] = features['targets'].vocabulary.decode(outputs.tokens[i].tolist())
          line['score'] = float(outputs.scores[i])
        if outputs.target_scores is not None:
          line['target_score'] = float(outputs.target_scores[i])
        file.write(json.dumps(line, ensure_ascii=False) + '\n')


def flatten(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Turns {task: {metric: value}} into {'task/metric': value}."""
  return {f'{task}/{name}': v for task, metrics in results.items() for name, v in metrics.items()}


def example_texts(example: Mapping[str, np.ndarray], features) -> dict[str, str]:
  """Returns the texts of a task's example, by feature: as they were before tokenization.

  Where a task does not keep them under `inputs_pretokenized`, they are decoded.

  Args:
    example: features of one example, from a task's data set, as numpy arrays.
    features: the task's output features.
  """
  texts = {}
  for name, feature in features.items():
    text = example.get(f'{name}_pretokenized')
    if isinstance(text, bytes):
      texts[name] = text.decode('utf-8', errors='replace')
    elif name in example:
      texts[name] = feature.vocabulary.decode(example[name].tolist())
  return texts


@contextlib.contextmanager
def atomic_file(path):
  """Opens a text file that appears under its name when it is complete, or not at all.

  What is there and no file, such as /dev/null or a named pipe, is written to as it is.
  """
  path = pathlib.Path(path)
  if path.exists() and not path.is_file():
    with open(path, 'w', encoding='utf-8') as file:
      yield file
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  new_path = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(new_path, 'w', encoding='utf-8') as file:
      yield file
    os.replace(new_path, path)
  except BaseException:
    new_path.unlink(missing_ok=True)
    raise


class _PredictedTask:
  """What the metric functions of a task want from the model."""

  def __init__(self, task, task_feature_lengths):
    from seqio.metrics import ModelOutputType

    self.output_features = task.output_features
    wanted = {metric.model_output_type for metric in task.metric_objs}
    self.wants_scores = ModelOutputType.SCORE in wanted
    self.wants_predictions = bool(
      wanted & {ModelOutputType.PREDICTION, ModelOutputType.PREDICTION_WITH_AUX}
    )
    if self.wants_predictions and 'inputs' not in task_feature_lengths:
      raise errors.UserError(
        f'a metric of {task.name!r} wants predictions, but there are no inputs to predict from: '
        "give 'inputs' in TASK_FEATURE_LENGTHS, or evaluate on a task without metrics"
      )
    if ModelOutputType.SCORE_WITH_INTERMEDIATES in wanted:
      raise errors.UserError(
        f'a metric of {task.name!r} wants scores with intermediate values, which are not '
        'supported: give it (targets, scores), (targets, predictions) or '
        '(targets, predictions, aux_values)'
      )


@dataclasses.dataclass
class _Outputs:
  """Outputs of the model for all examples of a task, in order; None where not wanted."""

  tokens: np.ndarray | None = None
  scores: np.ndarray | None = None
  target_scores: np.ndarray | None = None


def examples(
  config: EvaluationConfig, has_encoder: bool
) -> Iterator[tuple[dict[str, str], np.ndarray]]:
  """Yields (texts by feature, ids of 'inputs') of every example of a task, unshuffled.

  Raises:
    UserError: as `Evaluator`, before the first example.
  """
  import seqio

  num_examples = -1 if config.num_examples is None else config.num_examples
  for name in _task_names(config):
    _eval_batches(config, name, has_encoder)  # For its checks.
    task = seqio.get_mixture_or_task(name)
    if 'inputs' not in task.output_features:
      raise errors.UserError(f'{name!r} has no inputs to answer: give INPUT, a text file')
    dataset = task.get_dataset(
      sequence_length=dict(config.task_feature_lengths),
      split=config.split,
      use_cached=config.use_cached,
      shuffle=False,
      seed=config.seed,
      num_epochs=1,
    )
    with sources.readable_errors():
      for example in dataset.take(num_examples).as_numpy_iterator():
        yield example_texts(example, task.output_features), example['inputs']


def _task_names(config):
  """Names of the tasks to evaluate: those that have the split, or all if none has it."""
  import seqio  # Late: importing t5x_lite.data first keeps TensorFlow quiet and off the GPU.

  mixture_or_task = data_batches.get_mixture_or_task(config.mixture_or_task_name)
  tasks = seqio.get_subtasks(mixture_or_task)
  with_split = [task for task in tasks if config.split in task.splits]
  # A mixture has its tasks in no order, but all hosts must do the same things in the same order.
  return sorted(task.name for task in with_split or tasks)


def _eval_batches(config, name, has_encoder) -> Iterator[inference.Batch]:
  """The batches of one task: what is wrong is found at once, the data is read later."""
  dataset = data_batches.DatasetConfig(
    mixture_or_task_name=name,
    task_feature_lengths=config.task_feature_lengths,
    split=config.split,
    batch_size=config.batch_size,
    shuffle=False,
    seed=config.seed,
    use_cached=config.use_cached,
  )
  batches = data_batches.eval_batches(dataset, has_encoder=has_encoder)
  return _first_rows(batches, config.num_examples, config.batch_size)


def _first_rows(batches, num_rows, batch_size):
  """Ends after `num_rows` rows; the rest of the last batch is zeros. None is all of them."""
  if num_rows is None:
    yield from batches
    return
  num_batches = -(-num_rows // batch_size)
  for i, batch in enumerate(itertools.islice(batches, num_batches)):
    left = num_rows - i * batch_size
    yield inference.fill_up({name: x[:left] for name, x in batch.items()}, batch_size)


def _numpy_batches(dataset, batch_size) -> Iterator[inference.Batch]:
  """Batches of a seqio.Evaluator's data set of (index, features); the last is filled up."""
  for _, batch in dataset.batch(batch_size).as_numpy_iterator():
    yield inference.fill_up(batch, batch_size)


def _seqio_evaluator(config, has_encoder):
  import seqio

  # It warns of lengths and loggers.
  with sources.quiet(), sources.readable_errors():
    return seqio.Evaluator(
      config.mixture_or_task_name,
      data_batches.feature_converter(has_encoder, pack=False),
      eval_split=config.split,
      use_cached=config.use_cached,
      seed=config.seed,
      sequence_length=dict(config.task_feature_lengths),
      num_examples=config.num_examples,
      async_compute_metrics=False,
    )


def _plain(metrics):
  """The metrics that are numbers, as floats; seqio also knows texts, images and the like."""
  values = {name: getattr(value, 'value', value) for name, value in metrics.items()}
  return {
    name: float(value)
    for name, value in values.items()
    if isinstance(value, numbers.Number) or (hasattr(value, 'dtype') and value.ndim == 0)
  }
