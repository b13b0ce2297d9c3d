"""Preprocessors against T5's own rows and small hand-made ones."""

import gzip
import json

import pytest
import seqio
import tensorflow as tf

from t5x_lite import errors
from t5x_lite.data import preprocessors


def _features(vocabulary):
  feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
  return {'inputs': feature, 'targets': feature}


def _documents(lists):
  dataset = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(lists, dtype=tf.int32))
  return dataset.map(lambda tokens: {'targets': tokens})


def _rows(dataset):
  return [
    {key: value.tolist() for key, value in row.items()} for row in dataset.as_numpy_iterator()
  ]


def _read(path):
  with gzip.open(path, 'rt') as lines:
    return [json.loads(line) for line in lines]


def test_span_corruption_repeats_the_golden_rows_of_t5_id_for_id(shared_data):
  golden = shared_data / 'golden' / 'span_corruption'
  documents = [row['targets'] for row in _read(golden / 'c4_500_tokens.jsonl.gz')]
  expected = _read(golden / 'expected_first_120.jsonl.gz')
  vocabulary = seqio.SentencePieceVocabulary(
    str(shared_data / 'vocab' / 't5_cc_all_32000_sentencepiece.model'), extra_ids=100
  )
  with seqio.map_seed_manager(initial_seed=94043):
    rows = preprocessors.span_corruption(
      _documents(documents), {'inputs': 1024, 'targets': 1024}, _features(vocabulary)
    )
  assert len(expected) == 120
  assert _rows(rows.take(120)) == expected


@pytest.mark.parametrize(
  'inputs_length, tokens_length, targets_length',
  [(64, 70, 14), (128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229)],
)
def test_row_length_fills_the_inputs(inputs_length, tokens_length, targets_length):
  assert preprocessors.random_spans_helper(inputs_length) == (tokens_length, targets_length)


def test_half_noise_keeps_inputs_and_targets_equally_long():
  tokens_length, targets_length = preprocessors.random_spans_helper(
    512, noise_density=0.5, mean_noise_span_length=3.0
  )
  assert targets_length <= 512
  assert tokens_length == 2 * (tokens_length // 2)


def test_corrupted_rows_fill_their_lengths_exactly():
  documents = _documents([list(range(3, 250))] * 128)
  rows = _rows(
    preprocessors.span_corruption(
      documents, {'inputs': 512, 'targets': 114}, _features(seqio.ByteVocabulary(extra_ids=100))
    )
  )
  assert {(len(row['inputs']), len(row['targets'])) for row in rows[:-1]} == {(511, 113)}


def test_targets_that_do_not_fit_are_refused_with_the_length_to_set():
  with pytest.raises(errors.UserError, match="length 114, but .* 100: .*'targets': 114"):
    preprocessors.span_corruption(
      _documents([[3]]), {'inputs': 512, 'targets': 100}, _features(seqio.ByteVocabulary(100))
    )


def test_span_corruption_without_lengths_is_refused():
  with pytest.raises(errors.UserError, match='TASK_FEATURE_LENGTHS'):
    preprocessors.span_corruption(_documents([[3]]), None, _features(seqio.ByteVocabulary(100)))


@pytest.mark.parametrize(
  'length, mask', [(1, [False]), (2, [False, True]), (3, [False, False, True])]
)
def test_the_shortest_rows_keep_a_token_of_text(length, mask):
  drawn = preprocessors.random_spans_noise_mask(length, seeds=[(1, 2), (3, 4)])
  assert drawn.numpy().tolist() == mask


def test_noise_mask_has_the_density_and_begins_with_text():
  for seed in range(20):
    mask = preprocessors.random_spans_noise_mask(568, seeds=[(seed, 0), (seed, 1)]).numpy()
    runs = (mask[1:] & ~mask[:-1]).sum() + mask[0]
    assert (mask.sum(), runs, mask[0], mask[-1]) == (85, 28, False, True)


def test_each_run_becomes_one_sentinel_counting_down():
  tokens = tf.constant([10, 11, 12, 13, 14, 15])
  mask = tf.constant([False, True, True, False, True, False])
  inputs = preprocessors.spans_to_sentinels(tokens, mask, first_sentinel=99)
  targets = preprocessors.spans_to_sentinels(tokens, ~mask, first_sentinel=99)
  assert inputs.numpy().tolist() == [10, 99, 13, 98, 15]
  assert targets.numpy().tolist() == [99, 11, 12, 98, 14, 97]


def test_documents_are_joined_and_cut():
  joined = preprocessors.join_documents(_documents([[3, 4, 5], [6], [7, 8]]), number=2)
  assert _rows(joined) == [{'targets': [3, 4, 5, 6]}, {'targets': [7, 8]}]
  cut = preprocessors.split_tokens(joined, length=3)
  assert _rows(cut) == [{'targets': [3, 4, 5]}, {'targets': [6]}, {'targets': [7, 8]}]


def test_a_long_document_gives_one_of_its_chunks_and_an_empty_one_nothing():
  with seqio.map_seed_manager(1):
    dataset = preprocessors.select_random_chunk(
      _documents([[3, 4, 5, 6, 7], []]).repeat(50), max_length=2
    )
  chunks = {tuple(row['targets']) for row in _rows(dataset)}
  assert chunks == {(3, 4), (5, 6), (7,)}
