"""Ranking of labels, against scores that are computed one example at a time."""

import functools
import json

import numpy as np
import pytest
import seqio
import tiny

from t5x_lite import errors
from t5x_lite.data import batches as data_batches
from t5x_lite.data import metrics, sources, vocabulary
from t5x_lite.evaluation import evaluator, inference, predicting

LENGTHS = {'inputs': 12, 'targets': 6}
LABELS = ('no!', 'yes', 'may')
QUESTIONS = [f'is {i} odd' for i in range(11)]  # Divides by nothing.
VOCABULARY = seqio.ByteVocabulary(extra_ids=100)


@pytest.fixture(scope='module', autouse=True)
def task():
  def rows(split):
    del split
    return {'inputs': QUESTIONS, 'targets': [LABELS[i % 2] for i in range(len(QUESTIONS))]}

  seqio.TaskRegistry.add(
    'ranked',
    source=sources.RowsDataSource(rows, ('validation',)),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
    output_features={name: seqio.Feature(VOCABULARY) for name in ('inputs', 'targets')},
    postprocess_fn=functools.partial(metrics.label_to_class_id, label_classes=LABELS),
    metric_fns=[metrics.accuracy, metrics.invalid_predictions],
  )
  yield seqio.TaskRegistry.get('ranked')
  seqio.TaskRegistry.remove('ranked')


def make_model(architecture, num_devices):
  changes = {} if architecture == 'encoder_decoder' else {'num_encoder_layers': 0}
  config = tiny.config(vocab_size=384, architecture=architecture, **changes)
  return tiny.inference_on(config, num_devices)


def scores_one_by_one(model, params):
  """float32 [example, label]: each question with each label as its targets, as the task lays it out."""
  converter = data_batches.feature_converter(model.config.has_encoder, pack=False)
  table = np.zeros((len(QUESTIONS), len(LABELS)), np.float32)
  for i, question in enumerate(QUESTIONS):
    for j, label in enumerate(LABELS):
      tokens = {
        'inputs': VOCABULARY.encode(question) + [1],
        'targets': VOCABULARY.encode(label) + [1],
      }
      dataset = seqio.vocabularies.tf.data.Dataset.from_tensors(
        {name: np.array(ids, np.int32) for name, ids in tokens.items()}
      )
      [row] = converter(dataset, task_feature_lengths=LENGTHS).as_numpy_iterator()
      batch = inference.fill_up({name: x[None] for name, x in row.items()}, 8)
      table[i, j] = next(iter(model.score(params, [batch])))[0]
  return table


@pytest.mark.slow
@pytest.mark.parametrize(
  'architecture, num_devices',
  [('encoder_decoder', 1), ('encoder_decoder', 8), ('prefix_language_model', 1)],
)
def test_the_label_with_the_best_score_is_the_answer(tmp_path, architecture, num_devices):
  model, params = make_model(architecture, num_devices)
  expected = scores_one_by_one(model, params)
  config = evaluator.EvaluationConfig('ranked', LENGTHS, batch_size=8, predict_by='ranking')
  results = evaluator.Evaluator(config, model, tmp_path).evaluate(params, 0)['ranked']
  answers = expected.argmax(axis=1)
  assert results['invalid_predictions'] == 0
  right = [LABELS[answer] == LABELS[i % 2] for i, answer in enumerate(answers)]
  assert results['accuracy'] == pytest.approx(100 * np.mean(right))
  lines = (tmp_path / 'ranked-0.jsonl').read_text().splitlines()
  for line, scores in zip(map(json.loads, lines), expected, strict=True):
    assert line['prediction'] == LABELS[scores.argmax()]
    for label, score in zip(LABELS, scores, strict=True):
      assert line['label_scores'][label] == pytest.approx(score, rel=1e-5)


def test_a_label_that_is_longer_than_the_targets_is_named(task):
  with pytest.raises(
    errors.UserError, match="'no!' of 'ranked' is 4 tokens, but the targets are 3"
  ):
    predicting.label_tokens(task, LABELS, 3)


def test_labels_that_a_vocabulary_cannot_spell_are_known(task, tmp_path):
  assert predicting.labels_of(task) == LABELS
  assert predicting.unknown_labels(task) == []
  words = vocabulary.train_sentencepiece(
    ['no! yes no!', 'yes no!'] * 9, tmp_path / 'words.model', vocab_size=14, num_sentinels=4
  )
  features = {name: seqio.Feature(words) for name in ('inputs', 'targets')}
  seqio.TaskRegistry.add(
    'ranked_in_words',
    source=task.source,
    preprocessors=list(task.preprocessors),
    output_features=features,
    postprocess_fn=functools.partial(metrics.label_to_class_id, label_classes=LABELS),
    metric_fns=[metrics.accuracy],
  )
  assert predicting.unknown_labels(seqio.TaskRegistry.get('ranked_in_words')) == ['may']
  seqio.TaskRegistry.remove('ranked_in_words')
