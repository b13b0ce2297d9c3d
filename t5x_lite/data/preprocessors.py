"""Preprocessors in seqio's form: from text to the examples T5 learns from.

Span corruption is the pretraining objective of T5 (Raffel et al. 2020, section 3.1.4): 15% of the tokens, in runs
of three on average, are taken out; a sentinel marks each gap, and the targets are what the gaps held. The rows
are those of the original T5, id for id: besides the arithmetic this fixes which step takes which of the random
seeds that `seqio.map_seed_manager` hands out in order.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from t5x_lite import errors


def span_corruption(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int] | None,
  output_features: Mapping[str, seqio.Feature],
  *,
  noise_density: float = 0.15,
  mean_noise_span_length: float = 3.0,
  max_document_length: int = 65536,
  documents_to_join: int = 128,
) -> tf.data.Dataset:
  """Turns tokenized documents into inputs with gaps and the targets that fill them.

  Documents are joined and cut into rows of exactly the length that fills `sequence_length['inputs']` once
  corrupted, so nothing is spent on padding. EOS is left to `seqio.preprocessors.append_eos_after_trim`.

  Args:
    dataset: examples with `targets`: int32 [document_length]; other features are dropped.
    sequence_length: feature lengths, EOS included, as given to the task.
    output_features: the task's features; the sentinels are the last ids of the targets' vocabulary.
    noise_density: share of the tokens that is taken out.
    mean_noise_span_length: mean number of tokens in a gap.
    max_document_length: of a document longer than this, one random chunk is used, in tokens.
    documents_to_join: how many documents are joined before they are cut.

  Returns:
    Examples with `inputs` and `targets`, both int32 [length].

  Raises:
    UserError: without feature lengths, or if the targets do not fit into theirs.
  """
  if sequence_length is None or not {'inputs', 'targets'} <= set(sequence_length):
    raise errors.UserError(
      f"span corruption needs feature lengths for 'inputs' and 'targets', not {sequence_length}: "
      "set TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}"
    )
  if output_features['inputs'].vocabulary != output_features['targets'].vocabulary:
    raise errors.UserError('span corruption needs one vocabulary for inputs and targets')
  tokens_length, targets_length = random_spans_helper(
    sequence_length['inputs'],
    noise_density=noise_density,
    mean_noise_span_length=mean_noise_span_length,
  )
  if sequence_length['targets'] < targets_length:
    raise errors.UserError(
      f'span corruption of {sequence_length["inputs"]} inputs makes targets of length {targets_length}, '
      f'but targets have length {sequence_length["targets"]}: set TASK_FEATURE_LENGTHS='
      f"{{'inputs': {sequence_length['inputs']}, 'targets': {targets_length}}}"
    )

  dataset = select_random_chunk(dataset, max_length=max_document_length)
  dataset = join_documents(dataset, number=documents_to_join)
  dataset = split_tokens(dataset, length=tokens_length)
  return corrupt_spans(
    dataset,
    vocabulary=output_features['targets'].vocabulary,
    noise_density=noise_density,
    mean_noise_span_length=mean_noise_span_length,
  )


def random_spans_helper(
  inputs_length: int,
  *,
  noise_density: float = 0.15,
  mean_noise_span_length: float = 3.0,
) -> tuple[int, int]:
  """Picks the row length for which span corruption fills the inputs without padding.

  Args:
    inputs_length: length of the inputs, sentinels and EOS included.
    noise_density: share of the tokens that is taken out, between 0 and 1.
    mean_noise_span_length: mean number of tokens in a gap, at least 1.

  Returns:
    (tokens_length, targets_length): tokens in a row before corruption, and length of its targets, sentinels and
    EOS included; (568, 114) for 512 inputs.

  Raises:
    UserError: if an argument is out of its range.
  """
  if inputs_length < 2:
    raise errors.UserError(f'inputs of length {inputs_length} leave no room for a token and EOS')
  if not 0.0 < noise_density < 1.0:
    raise errors.UserError(f'noise_density={noise_density} is not between 0 and 1')
  if mean_noise_span_length < 1.0:
    raise errors.UserError(f'mean_noise_span_length={mean_noise_span_length} is less than 1')

  def lengths(tokens_length):
    num_noise_tokens = round(tokens_length * noise_density)
    num_noise_spans = round(num_noise_tokens / mean_noise_span_length)
    return (
      tokens_length - num_noise_tokens + num_noise_spans + 1,
      num_noise_tokens + num_noise_spans + 1,
    )

  tokens_length = inputs_length - 1
  while lengths(tokens_length + 1)[0] <= inputs_length:
    tokens_length += 1
  filled_inputs_length, targets_length = lengths(tokens_length)
  if noise_density == 0.5 and targets_length > filled_inputs_length:
    # T5 keeps the two lengths equal here, since inputs_length is the round number.
    return tokens_length - 1, targets_length - 1
  return tokens_length, targets_length


def select_random_chunk(
  dataset: tf.data.Dataset, *, max_length: int, feature_key: str = 'targets'
) -> tf.data.Dataset:
  """Keeps one of the `max_length`-token chunks of each document, drawn evenly; drops empty documents."""

  @seqio.map_over_dataset(num_seeds=1)
  def select(example, seed):
    tokens = example[feature_key]
    num_chunks = (tf.size(tokens) + max_length - 1) // max_length
    # T5 splits its seed between a random length, which it can draw too, and the start.
    _, start_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    start = max_length * tf.random.stateless_uniform(
      [], seed=start_seed, maxval=num_chunks, dtype=tf.int32
    )
    return {feature_key: tokens[start : start + max_length]}

  return select(dataset.filter(lambda example: tf.size(example[feature_key]) > 0))


def join_documents(
  dataset: tf.data.Dataset, *, number: int, feature_key: str = 'targets'
) -> tf.data.Dataset:
  """Joins the tokens of each `number` documents in a row; ids 0 are dropped as padding."""

  def join(tokens):  # [number, longest_document]
    return {feature_key: tf.boolean_mask(tokens, tokens != 0)}

  dataset = dataset.map(lambda example: example[feature_key], num_parallel_calls=tf.data.AUTOTUNE)
  dataset = dataset.padded_batch(number, padded_shapes=[None])
  return dataset.map(join, num_parallel_calls=tf.data.AUTOTUNE)


def split_tokens(
  dataset: tf.data.Dataset, *, length: int, feature_key: str = 'targets'
) -> tf.data.Dataset:
  """Cuts each example into examples of `length` tokens; the last one may be shorter."""

  # The seed is not needed: T5 takes one here, and the seeds of all later steps depend on it.
  @seqio.map_over_dataset(num_seeds=1)
  def pad_and_cut(example, seed):
    del seed
    tokens = example[feature_key]
    num_rows = (tf.size(tokens) + length - 1) // length
    padded = tf.pad(tokens, [[0, num_rows * length - tf.size(tokens)]])
    row_lengths = tf.minimum(length, tf.size(tokens) - length * tf.range(num_rows))
    return tf.reshape(padded, [num_rows, length]), row_lengths

  def strip(row, row_length):
    return {feature_key: row[:row_length]}

  dataset = dataset.filter(lambda example: tf.size(example[feature_key]) > 0)
  dataset = pad_and_cut(dataset).unbatch()
  return dataset.map(strip, num_parallel_calls=tf.data.AUTOTUNE)


def corrupt_spans(
  dataset: tf.data.Dataset,
  *,
  vocabulary: seqio.Vocabulary,
  noise_density: float = 0.15,
  mean_noise_span_length: float = 3.0,
) -> tf.data.Dataset:
  """Replaces random spans of `targets` by sentinels in `inputs`, and the rest by the same in `targets`."""
  first_sentinel = vocabulary.vocab_size - 1

  @seqio.map_over_dataset(num_seeds=1)
  def corrupt(example, seed):
    tokens = example['targets']
    # T5 splits its seed into two for the mask, two for making the inputs and two for the targets.
    mask_seeds = tf.random.experimental.stateless_split(seed, 6)[:2]
    noise_mask = random_spans_noise_mask(
      tf.size(tokens),
      seeds=mask_seeds,
      noise_density=noise_density,
      mean_noise_span_length=mean_noise_span_length,
    )
    return {
      'inputs': spans_to_sentinels(tokens, noise_mask, first_sentinel=first_sentinel),
      'targets': spans_to_sentinels(tokens, ~noise_mask, first_sentinel=first_sentinel),
    }

  return corrupt(dataset)


def random_spans_noise_mask(
  length: tf.Tensor, *, seeds, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> tf.Tensor:
  """Draws which tokens are noise: spans of random lengths, beginning with a span that is not.

  Args:
    length: int32 scalar, number of tokens.
    seeds: two stateless seeds, for the lengths of the noise spans and of those between them.
    noise_density: share of noise tokens.
    mean_noise_span_length: mean length of a noise span.

  Returns:
    bool [length], True for noise.
  """
  drawn_length = tf.maximum(length, 2)  # One token of noise and one of text at the least.
  # float32 and round-half-to-even, as in T5: another rounding moves the masks of some lengths.
  num_noise_tokens = tf.cast(tf.round(tf.cast(drawn_length, tf.float32) * noise_density), tf.int32)
  num_noise_tokens = tf.clip_by_value(num_noise_tokens, 1, drawn_length - 1)
  num_text_tokens = drawn_length - num_noise_tokens
  num_spans = tf.cast(
    tf.round(tf.cast(num_noise_tokens, tf.float32) / mean_noise_span_length), tf.int32
  )
  num_spans = tf.clip_by_value(num_spans, 1, num_text_tokens)
  noise_lengths = _random_segment_lengths(num_noise_tokens, num_spans, seed=seeds[0])
  text_lengths = _random_segment_lengths(num_text_tokens, num_spans, seed=seeds[1])
  # [num_spans, 2] -> [2 * num_spans]: text, noise, text, noise, ...
  span_lengths = tf.reshape(tf.stack([text_lengths, noise_lengths], axis=1), [-1])
  is_noise = tf.range(2 * num_spans) % 2 == 1
  return tf.repeat(is_noise, span_lengths)[:length]


def _random_segment_lengths(num_items, num_segments, *, seed):
  """Divides items into segments of at least one item, all divisions equally likely: int32 [num_segments]."""
  # Every item but the first may open a new segment; num_segments - 1 of them, drawn by shuffling, do.
  opens = tf.cast(tf.range(num_items - 1) < num_segments - 1, tf.int32)
  segment_ids = tf.cumsum(seqio.utils.stateless_shuffle(opens, seed))
  return tf.math.bincount(tf.pad(segment_ids, [[1, 0]]), minlength=num_segments)


def spans_to_sentinels(
  tokens: tf.Tensor, mask: tf.Tensor, *, first_sentinel: int | tf.Tensor
) -> tf.Tensor:
  """Replaces each run of masked tokens by one sentinel; sentinels count down from `first_sentinel`.

  Args:
    tokens: int32 [length].
    mask: bool [length].
    first_sentinel: id of `<extra_id_0>`, the last of the vocabulary.

  Returns:
    int32 [length - masked tokens + masked runs].
  """
  follows_masked = tf.pad(mask[:-1], [[1, 0]])
  opens_run = mask & ~follows_masked
  sentinels = first_sentinel + 1 - tf.cumsum(tf.cast(opens_run, tokens.dtype))
  return tf.boolean_mask(tf.where(opens_run, sentinels, tokens), opens_run | ~mask)
