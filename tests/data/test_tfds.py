"""A task over TensorFlow Datasets, with a data set that is built here as TFDS builds its own."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from t5x_lite import errors
from t5x_lite.data import batches, local_data

VOCABULARY = seqio.ByteVocabulary()
LABELS = ('negative', 'positive')


class TinyReviews(tfds.core.GeneratorBasedBuilder):
  """Twenty made-up reviews in each split."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {
      'sentence': tfds.features.Text(),
      'label': tfds.features.ClassLabel(names=LABELS),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in ('train', 'validation')}

  def _generate_examples(self, split):
    for i in range(20):
      yield i, {'sentence': f'review {i} of {split}', 'label': LABELS[i % 2]}


@seqio.map_over_dataset
def to_text(example):
  label = seqio.vocabularies.tf.constant(LABELS)[example['label']]
  return {'inputs': example['sentence'], 'targets': label}


def add_task(name, source):
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      to_text,
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={name: seqio.Feature(VOCABULARY) for name in ('inputs', 'targets')},
  )


@pytest.fixture(scope='module', autouse=True)
def task(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('tfds'))
  TinyReviews(data_dir=folder).download_and_prepare()
  add_task('tfds_reviews', seqio.TfdsDataSource('tiny_reviews:1.0.0', tfds_data_dir=folder))
  yield
  seqio.TaskRegistry.remove('tfds_reviews')


def config(**changes):
  lengths = {'inputs': 32, 'targets': 10}
  return batches.DatasetConfig('tfds_reviews', lengths, **({'batch_size': 4, 'seed': 0} | changes))


def test_training_reads_it_and_finds_its_place_again():
  iterator = batches.train_batches(config())
  for _ in range(3):
    batch = next(iterator)
  assert VOCABULARY.decode(batch['decoder_target_tokens'][0].tolist()) in LABELS
  state = iterator.get_state()
  expected = list(itertools.islice(iterator, 4))
  again = batches.train_batches(config())
  again.set_state(state)
  for batch, other in zip(expected, itertools.islice(again, 4), strict=True):
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


def test_evaluation_reads_each_example_once():
  rows = list(batches.eval_batches(config(split='validation', batch_size=8)))
  assert [len(batch['encoder_input_tokens']) for batch in rows] == [8, 8, 8]
  assert sum(np.any(batch['decoder_loss_weights'], axis=1).sum() for batch in rows) == 20


def test_data_that_is_not_there_is_a_mistake_with_a_remedy(tmp_path):
  source = seqio.TfdsDataSource('tiny_reviews:1.0.0', tfds_data_dir=str(tmp_path))
  add_task('tfds_absent', source)
  with pytest.raises(errors.UserError, match="data of 'tfds_absent'.* is not there.*TFDS_DATA_DIR"):
    batches.train_batches(batches.DatasetConfig('tfds_absent', {'inputs': 8, 'targets': 8}))
  seqio.TaskRegistry.remove('tfds_absent')


def test_a_data_set_of_the_benchmark_is_read_from_tfds_where_there_are_no_files(tmp_path):
  TinyReviews(data_dir=str(tmp_path)).download_and_prepare()
  seqio.set_tfds_data_dir_override(str(tmp_path))
  source = local_data.LocalOrTfdsDataSource(
    'tiny_reviews:1.0.0', {'train': 'validation'}, open_files=None
  )
  try:
    rows = list(source.get_dataset('train', shuffle=False).as_numpy_iterator())
    assert source.num_input_examples('train') == 20
  finally:
    seqio.set_tfds_data_dir_override(None)
  assert list(source.splits) == ['train']
  assert {row['sentence'].decode() for row in rows} == {
    f'review {i} of validation' for i in range(20)
  }
