"""Evaluates seqio tasks: the loss of their targets, the metrics of what the model predicts."""

import dataclasses
import itertools
import json
import math
import numbers
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from t5x_lite import errors, sharding
from t5x_lite.data import batches as data_batches
from t5x_lite.data import sources
from t5x_lite.decoding import options
from t5x_lite.evaluation import files, inference, leaderboards, predicting


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What to evaluate.

  Attributes:
    mixture_or_task_name: a registered seqio task, or a mixture, whose tasks are evaluated one
      by one; or several of them.
    task_feature_lengths: length of each task feature, EOS included. Predictions are as long as
      the targets at most.
    split: the split to read; tasks of a mixture without it are left out.
    batch_size: examples at a time, over all devices.
    num_examples: read only so many examples of each task, from the start; None reads all.
    use_cached: read what `seqio_cache_tasks` wrote, not the source.
    seed: of random preprocessing, such as span corruption: the same at every evaluation.
    predict_by: 'generation' decodes an answer; 'ranking' takes the label with the highest
      probability, in tasks that have labels.
    decoding: how answers are decoded.
  """

  mixture_or_task_name: str | Sequence[str]
  task_feature_lengths: Mapping[str, int]
  split: str = 'validation'
  batch_size: int = 128
  num_examples: int | None = None
  use_cached: bool = False
  seed: int = 0
  predict_by: str = 'generation'
  decoding: options.DecodingConfig = options.DecodingConfig()

  def __post_init__(self):
    if self.num_examples is not None and self.num_examples < 1:
      raise errors.UserError(f'num_examples={self.num_examples} must be at least 1, or None')
    if self.predict_by not in predicting.METHODS:
      raise errors.UserError(
        f'PREDICT_BY={self.predict_by!r} may be {" or ".join(map(repr, predicting.METHODS))}'
      )


class Evaluator:
  """Evaluates tasks as often as asked.

  The data is read once. In a job of several hosts each of them reads all examples and gets the
  same metrics, and the first writes the predictions.

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
    folder = predictions_dir if is_writer else None
    self._tasks = {name: _TaskEvaluator(name, config, model, folder) for name in task_names(config)}
    ranked = any(task.labels for task in self._tasks.values())
    if config.predict_by == 'ranking' and not ranked:
      raise errors.UserError(
        f"PREDICT_BY='ranking' needs a task with labels, and {', '.join(self._tasks)} have none: "
        "give it a postprocess_fn with label_classes, or predict by 'generation'"
      )

  @property
  def tasks(self) -> list[str]:
    return list(self._tasks)

  def evaluate(self, params, step: int) -> dict[str, dict[str, float]]:
    """Returns the metrics by name, by task, and writes the predictions.

    Of tasks of GLUE or SuperGLUE there are the leaderboard's average, under 'glue' or
    'super_glue', and the number of tasks in it.

    Args:
      params: the parameters, on the model's mesh.
      step: the training step they are of, which is part of the name of the predictions' file.
    """
    results = {name: task.evaluate(params, step) for name, task in self._tasks.items()}
    return results | leaderboards.scores(results)


class _TaskEvaluator:
  """Evaluates one task: the loss of its targets, and the metrics of what is predicted.

  'loss' is in nats per target token, 'perplexity' its exponential, and 'bits_per_byte' the same
  loss per byte of the targets' texts, which does not depend on the vocabulary. Metric functions
  get their values through `seqio.Evaluator`.
  """

  def __init__(self, name, config, model, predictions_dir):
    self._config = config
    self._model = model
    self._predictions_dir = predictions_dir
    has_encoder = model.config.has_encoder
    batches = _eval_batches(config, name, has_encoder)
    # Only now, since it would fail in other words on what `eval_batches` refuses.
    self._seqio_evaluator = _seqio_evaluator(config, name, has_encoder)
    self._task = data_batches.get_mixture_or_task(name)
    self._output_features = data_batches.output_features(name)
    self._wanted = {metric.model_output_type for metric in self._task.metric_objs}
    self.labels = None
    if self._is_measured:
      self._check_metrics()
      # Metric functions see the examples in the order of this data set and no other.
      dataset = self._seqio_evaluator.cached_model_datasets[name]
      batches = _numpy_batches(dataset, config.batch_size)
      self.labels = _ranked_labels(self._task, config)
      if unknown := predicting.unknown_labels(self._task):
        logging.warning(
          'the vocabulary does not know all characters of %s, labels of %s: no answer is equal to '
          'them; train one with --required-characters',
          ', '.join(unknown),
          name,
        )
    with sources.readable_errors():
      self._batches = list(batches)
    self._bits_per_byte_of_loss = self._tokens_per_byte() / math.log(2)

  @property
  def _is_measured(self):
    return bool(self._seqio_evaluator.eval_tasks)

  def _check_metrics(self):
    from seqio.metrics import ModelOutputType

    name = self._task.name
    if self._wants_predictions and 'inputs' not in self._config.task_feature_lengths:
      raise errors.UserError(
        f'a metric of {name!r} wants predictions, but there are no inputs to predict from: '
        "give 'inputs' in TASK_FEATURE_LENGTHS, or evaluate on a task without metrics"
      )
    if ModelOutputType.SCORE_WITH_INTERMEDIATES in self._wanted:
      raise errors.UserError(
        f'a metric of {name!r} wants scores with intermediate values, which are not '
        'supported: give it (targets, scores), (targets, predictions) or '
        '(targets, predictions, aux_values)'
      )

  @property
  def _wants_predictions(self):
    from seqio.metrics import ModelOutputType

    return bool(self._wanted & {ModelOutputType.PREDICTION, ModelOutputType.PREDICTION_WITH_AUX})

  def _tokens_per_byte(self):
    """Target tokens for each byte of the targets' texts, in UTF-8; NaN if they say nothing."""
    vocabulary = self._output_features['targets'].vocabulary
    num_texts = vocabulary.vocab_size - vocabulary.extra_ids
    tokens = num_bytes = 0
    for batch in self._batches:
      rows = zip(batch['decoder_target_tokens'], batch['decoder_loss_weights'], strict=True)
      for row, weights in rows:
        ids = row[weights > 0]
        tokens += len(ids)
        # Sentinels are no text, nor is EOS; some objectives have one in the middle.
        ids = ids[(ids < num_texts) & (ids != vocabulary.eos_id)]
        num_bytes += len(vocabulary.decode(ids.tolist()).encode())
    return tokens / num_bytes if num_bytes else math.nan

  def evaluate(self, params, step):
    results = self._metrics(params, step) if self._is_measured else {}
    results |= self._model.loss(params, self._batches)
    results['perplexity'] = float(np.exp(results['loss']))
    results['bits_per_byte'] = results['loss'] * self._bits_per_byte_of_loss
    return results

  def _metrics(self, params, step):
    """Returns {metric: float} of the metric functions."""
    from seqio.metrics import ModelOutputType

    num_examples = len(self._seqio_evaluator.cached_task_datasets[self._task.name])
    predictions = scores = None
    if self._wants_predictions:
      predictions = predicting.predict(
        self._model,
        params,
        self._batches,
        self._task,
        self.labels,
        lengths=self._config.task_feature_lengths,
        decoding=self._config.decoding,
      )
    if ModelOutputType.SCORE in self._wanted:
      scores = np.concatenate(list(self._model.score(params, self._batches)))[:num_examples]

    # seqio passes its data set, which is the one that the batches were made of.
    def tokens(dataset):
      del dataset
      return list(enumerate(predictions.tokens[:num_examples]))

    model_fns = {
      ModelOutputType.PREDICTION: tokens,
      ModelOutputType.PREDICTION_WITH_AUX: lambda dataset: (
        tokens(dataset),
        {'scores': list(predictions.scores[:num_examples])},
      ),
      ModelOutputType.SCORE: lambda dataset: list(enumerate(scores)),
    }
    future, _ = self._seqio_evaluator.evaluate(compute_metrics=True, step=step, model_fns=model_fns)
    if self._predictions_dir is not None:
      try:
        self._write_predictions(predictions, scores, step)
      except OSError as error:  # A full disk is no reason to lose the metrics, or the run.
        logging.warning('the predictions of %s cannot be written: %s', self._task.name, error)
    return _plain(future.result()[self._task.name])

  def _write_predictions(self, predictions, target_scores, step):
    name, split = self._task.name, self._config.split
    of_split = '' if split == 'validation' else f'-{split}'
    path = pathlib.Path(self._predictions_dir) / f'{name}{of_split}-{step}.jsonl'
    examples = self._seqio_evaluator.cached_task_datasets[name].as_numpy_iterator()
    features = self._output_features
    with files.atomic_file(path) as file:
      for i, example in enumerate(examples):
        line = example_texts(example, features)
        if predictions is not None:
          line['prediction'] = features['targets'].vocabulary.decode(predictions.tokens[i].tolist())
          line['score'] = float(predictions.scores[i])
        if self.labels is not None:
          scores = map(float, predictions.label_scores[i])
          line['label_scores'] = dict(zip(self.labels, scores, strict=True))
        if target_scores is not None:
          line['target_score'] = float(target_scores[i])
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


def post_processed(
  config: EvaluationConfig, model: inference.Inference, params
) -> dict[str, list[tuple[dict[str, np.ndarray], Any]]]:
  """Predicts a split without targets.

  Args:
    config: what to predict.
    model: the model, on its mesh.
    params: the parameters.

  Returns:
    By task, for each example its features and what the task makes of the predicted text.
  """
  sharding.check_batch_size(config.batch_size, model.mesh)
  results = {}
  for name in task_names(config):
    task = data_batches.get_mixture_or_task(name)
    batches = list(_eval_batches(config, name, model.config.has_encoder))
    predictions = predicting.predict(
      model,
      params,
      batches,
      task,
      _ranked_labels(task, config),
      lengths=config.task_feature_lengths,
      decoding=config.decoding,
    )
    decode = task.output_features['targets'].vocabulary.decode
    results[name] = [
      (example, task.postprocess_fn(decode(tokens.tolist()), example=example, is_target=False))
      for example, tokens in zip(_raw_examples(task, config), predictions.tokens, strict=False)
    ]
  return results


def examples(
  config: EvaluationConfig, has_encoder: bool
) -> Iterator[tuple[Any, Iterator[tuple[dict[str, str], Mapping[str, np.ndarray]]]]]:
  """Yields the `seqio.Task`s, and of each an iterator of its examples, unshuffled: (texts by feature, features).

  Raises:
    UserError: as `Evaluator`, before the first example.
  """
  for name in task_names(config):
    _eval_batches(config, name, has_encoder)  # For its checks.
    task = data_batches.get_mixture_or_task(name)
    if 'inputs' not in task.output_features:
      raise errors.UserError(f'{name!r} has no inputs to answer: give INPUT, a text file')
    yield (
      task,
      ((example_texts(each, task.output_features), each) for each in _raw_examples(task, config)),
    )


def count_examples(config: EvaluationConfig) -> int | None:
  """Returns how many examples there are before preprocessing; None where a source does not say."""
  tasks = map(data_batches.get_mixture_or_task, task_names(config))
  counts = [task.num_input_examples(config.split) for task in tasks]
  if None in counts:
    return None
  most = math.inf if config.num_examples is None else config.num_examples
  return sum(min(count, most) for count in counts)


def _ranked_labels(task, config):
  """Labels to rank; None where answers are decoded."""
  return predicting.labels_of(task) if config.predict_by == 'ranking' else None


def _raw_examples(task, config):
  """Examples of a task in order, with all the features that it leaves them."""
  num_examples = -1 if config.num_examples is None else config.num_examples
  with sources.quiet(), sources.readable_errors():
    dataset = sources.without_autograph(
      task.get_dataset,
      sequence_length=dict(config.task_feature_lengths),
      split=config.split,
      use_cached=config.use_cached,
      shuffle=False,
      seed=config.seed,
      num_epochs=1,
    )
    yield from dataset.take(num_examples).as_numpy_iterator()


def task_names(config) -> list[str]:
  """Names of the tasks to evaluate: those that have the split, or all if none has it."""
  import seqio  # Late: importing t5x_lite.data first keeps TensorFlow quiet and off the GPU.

  names = config.mixture_or_task_name
  names = [names] if isinstance(names, str) else names
  tasks = {
    task.name: task
    for name in names
    for task in seqio.get_subtasks(data_batches.get_mixture_or_task(name))
  }
  with_split = [name for name, task in tasks.items() if config.split in task.splits]
  # A mixture has its tasks in no order, but all hosts must do the same things in the same order.
  return sorted(with_split or tasks)


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


def _seqio_evaluator(config, name, has_encoder):
  import seqio

  # It warns of lengths and loggers.
  with sources.quiet(), sources.readable_errors():
    return seqio.Evaluator(
      name,
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
