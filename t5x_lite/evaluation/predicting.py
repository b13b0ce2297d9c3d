"""What a model answers to a task's inputs: what it decodes, or the label that it finds most probable."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_lite import errors
from t5x_lite.data import batches as data_batches
from t5x_lite.decoding import options
from t5x_lite.evaluation import buckets, inference

METHODS = ('generation', 'ranking')


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Answers to examples, in their order.

  Attributes:
    tokens: int32 [num_examples, targets_length].
    scores: float32 [num_examples], the log-probability of each answer, EOS included; of beam search its own score.
    label_scores: float32 [num_examples, num_labels], those of all labels; None of what was decoded.
  """

  tokens: np.ndarray
  scores: np.ndarray
  label_scores: np.ndarray | None = None


def predict(
  model: inference.Inference,
  params,
  batches: Sequence[inference.Batch],
  task,
  labels: Sequence[str] | None,
  *,
  lengths: Mapping[str, int],
  decoding: options.DecodingConfig,
) -> Predictions:
  """Answers each row of some batches: decodes, or takes the best of some labels.

  Args:
    model: the model.
    params: its parameters.
    batches: features, not packed.
    task: the `seqio.Task` that they are of.
    labels: texts to rank, or None.
    lengths: of 'inputs' and 'targets'; an answer is no longer than the targets.
    decoding: how answers are decoded; of several the best counts.
  """
  if labels is None:
    decoder = decoding.resolve(task.output_features['targets'].vocabulary, lengths['targets'])
    return _decode(model, params, batches, lengths['inputs'], decoder)
  tokens = label_tokens(task, labels, lengths['targets'])
  return _rank(model, params, batches, lengths['inputs'], tokens)


def _decode(model, params, batches, inputs_length, decoder):
  """Decodes all rows, those of like length together."""
  batch_size = len(next(iter(batches[0].values())))
  rows = np.concatenate([data_batches.inputs_of(batch, inputs_length) for batch in batches])
  lengths = np.count_nonzero(rows, axis=1)
  order = []

  def prompts():
    for indices, length in buckets.batches(lengths, batch_size, inputs_length, mixed=False):
      order.append(indices)
      batch = {'inputs': rows[indices, :length], 'numbers': np.array(indices, np.int32)}
      yield inference.Prompts(**inference.fill_up(batch, batch_size))

  answers = [None] * len(rows)
  for number, decoded in enumerate(model.predict(params, prompts(), decoder)):
    for row, place in enumerate(order[number]):
      answers[place] = (decoded.tokens[row, 0], decoded.scores[row, 0])
  tokens, scores = zip(*answers, strict=True)
  return Predictions(np.stack(tokens), np.stack(scores))


def _rank(model, params, batches, inputs_length, labels):
  """Scores every label, int32 [num_labels, targets_length], as the targets of each row; takes the best."""
  columns = []
  for tokens in labels:
    relabelled = (_with_targets(batch, tokens, inputs_length, model) for batch in batches)
    columns.append(np.concatenate(list(model.score(params, relabelled))))
  label_scores = np.stack(columns, axis=1)
  best = label_scores.argmax(axis=1)
  return Predictions(
    tokens=labels[best],
    scores=np.take_along_axis(label_scores, best[:, None], axis=1)[:, 0],
    label_scores=label_scores,
  )


def _with_targets(batch, tokens, inputs_length, model):
  """The inputs of a batch with other targets; rows that fill it up stay empty."""
  is_example = np.any(batch['decoder_loss_weights'], axis=1, keepdims=True)
  inputs = data_batches.inputs_of(batch, inputs_length)
  return data_batches.of_tokens(inputs, tokens * is_example, model.config.has_encoder)


def labels_of(task) -> Sequence[str] | None:
  """Texts of a task's labels: `label_classes`, given to its post-processing by functools.partial; or None."""
  return getattr(task._postprocess_fn, 'keywords', {}).get('label_classes')


def unknown_labels(task) -> list[str]:
  """Labels of a task with parts that its vocabulary does not know, so that no decoded answer is equal to them."""
  vocabulary = task.output_features['targets'].vocabulary
  return [label for label in labels_of(task) or () if vocabulary.unk_id in vocabulary.encode(label)]


def label_tokens(task, labels: Sequence[str], targets_length: int) -> np.ndarray:
  """Tokens of labels as a task's targets have them, int32 [num_labels, targets_length].

  Raises:
    UserError: a label is longer than the targets.
  """
  feature = task.output_features['targets']
  vocabulary = feature.vocabulary
  rows = np.zeros((len(labels), targets_length), np.int32)
  for row, label in zip(rows, labels, strict=True):
    tokens = [*vocabulary.encode(label), *([vocabulary.eos_id] if feature.add_eos else [])]
    if len(tokens) > targets_length:
      raise errors.UserError(
        f'the label {label!r} of {task.name!r} is {len(tokens)} tokens, but the targets are '
        f"{targets_length}: set 'targets': {len(tokens)} in TASK_FEATURE_LENGTHS"
      )
    row[: len(tokens)] = tokens
  return rows
