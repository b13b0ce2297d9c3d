"""What each task makes of examples of TFDS's form, against the original T5 (tests/golden/tasks)."""

import contextlib
import json
import pathlib
from unittest import mock

import numpy as np
import pytest
import seqio
import task_texts
import tensorflow as tf
import tensorflow_datasets as tfds
from t5x_lite.tasks import closed_book_qa

from t5x_lite import choices, cli
from t5x_lite.data import local_data, mixing

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / 'golden/tasks/examples.json').read_text(encoding='utf-8')
)
MIXTURES = GOLDEN.pop('mixtures')
# T5 counts empty words around punctuation in this task's targets, but not in its metric.
SPAN = 'squad_v010_allanswers_span'


def as_dataset(task, raw):
  """The examples in the form that the features of TFDS's data set declare."""
  features = tfds.builder(task.source.tfds_name).info.features
  spec = tf.nest.map_structure(
    lambda info: tf.TensorSpec(info.shape, info.tf_dtype), features.get_tensor_info()
  )
  return tf.data.Dataset.from_generator(
    lambda: (_encoded(example, spec) for example in raw), output_signature=spec
  )


def _encoded(example, spec):
  if isinstance(spec, dict):
    return {name: _encoded(example[name], inner) for name, inner in spec.items()}
  return np.array(example, spec.dtype.as_numpy_dtype)


@contextlib.contextmanager
def tfds_has(task, raw):
  """While it lasts, TFDS has these examples for every split of the task."""
  with (
    mock.patch.object(tfds.core.DatasetBuilder, 'is_prepared', return_value=True),
    mock.patch.object(seqio.TfdsDataSource, 'list_shards', return_value=['shard']),
    tfds.testing.mock_data(as_dataset_fn=lambda *args, **kwargs: as_dataset(task, raw)),
  ):
    yield


def texts_of(task, raw):
  with tfds_has(task, raw):
    split = 'train' if 'train' in task.splits else sorted(task.splits)[0]
    return task_texts.texts_of(task, split, seed=42)


def kept(name, texts):
  """Leaves out what T5 makes by mistake: of a word X in WSC, and of answers that it takes for patterns."""

  def is_mistake(inputs, targets):
    return (' Plan ' in inputs and 'wsc' in name) or ('I ; Q' in inputs and '. q .' in targets)

  return [i for i, text in enumerate(texts) if not is_mistake(*map(tf.compat.as_text, text))]


def pairs(examples):
  """Inputs and targets, without spaces at the end, which vocabularies drop."""
  return [
    tuple(tf.compat.as_text(example[name]).rstrip() for name in ('inputs', 'targets'))
    for example in examples
  ]


@pytest.mark.parametrize('name', [name for name in GOLDEN if name != SPAN])
def test_texts_are_those_of_the_original(name):
  texts = pairs(texts_of(seqio.TaskRegistry.get(name), GOLDEN[name]['raw']))
  expected = pairs(GOLDEN[name]['text'])
  assert [texts[i] for i in kept(name, texts)] == [expected[i] for i in kept(name, expected)]


@pytest.mark.parametrize('name', [name for name in GOLDEN if name not in (SPAN, 'trivia_qa_v010')])
def test_post_processing_is_that_of_the_original(name):
  task = seqio.TaskRegistry.get(name)
  examples = texts_of(task, GOLDEN[name]['raw'])
  for example, expected in zip(examples, GOLDEN[name]['postprocessed'], strict=True):
    example = {**example, 'targets_pretokenized': example['targets']}

    def processed(text, is_target):
      value = task.postprocess_fn(text, example=example, is_target=is_target)  # noqa: B023
      return json.loads(json.dumps(value, default=lambda x: x.item()))

    assert processed(example['targets'].decode(), True) == expected['target']
    predictions = [processed(each, False) for each in GOLDEN[name]['predictions']]
    assert predictions == expected['predictions']


@pytest.mark.parametrize(
  'name', [name for name in GOLDEN if name != SPAN and GOLDEN[name]['metrics']]
)
def test_metrics_are_those_of_the_original(name):
  task = seqio.TaskRegistry.get(name)
  golden = GOLDEN[name]
  num_predictions = len(golden['predictions'])
  rows = [
    (each['target'], each['predictions'][i % num_predictions])
    for i, (text, each) in enumerate(zip(golden['text'], golden['postprocessed'], strict=True))
    if text['targets'] not in ('<unk>', '-1.0')
  ]
  targets, predictions = map(list, zip(*rows, strict=True))
  if 'record' in name:
    targets = [{**target, 'group': tuple(target['group'])} for target in targets]
  values = {}
  for metric in task.metric_fns:
    values |= metric(targets, predictions)
  for metric, expected in golden['scores'].items():
    assert values[metric] == pytest.approx(expected, abs=1e-9), metric


def test_trivia_qa_is_cut_around_its_answers_where_the_original_cuts():
  truncated = GOLDEN['trivia_qa_v010']['truncated']
  signature = {name: tf.TensorSpec([None], tf.int32) for name in ('inputs', 'targets')}
  dataset = tf.data.Dataset.from_generator(
    lambda: iter(truncated['tokens']), output_signature=signature
  )
  with seqio.map_seed_manager(42):
    dataset = closed_book_qa.cut_around_answer(dataset, {'inputs': 12, 'targets': 12})
  rows = [{k: v.tolist() for k, v in row.items()} for row in dataset.as_numpy_iterator()]
  assert rows == truncated['rows']


def test_spans_are_where_the_answers_are_found():
  task = seqio.TaskRegistry.get(SPAN)
  examples = texts_of(task, GOLDEN[SPAN]['raw'])
  texts = dict(pairs(examples))
  for inputs, targets in pairs(GOLDEN[SPAN]['text'])[1:]:
    first, last = (int(word) for word in targets.split() if word.isdigit())
    assert texts[inputs] == f'start: {first} end: {last}'
  targets = [task.postprocess_fn('', example=example, is_target=True) for example in examples]
  right = [example['targets'].decode() for example in examples]
  assert task.metric_fns[0](targets, right) == {'em': 100.0, 'f1': 100.0}


@pytest.mark.parametrize('name', MIXTURES)
def test_mixtures_have_the_rates_of_the_original(name):
  mixture = seqio.MixtureRegistry.get(name)
  expected = dict(MIXTURES[name])
  assert {task.name for task in mixture.tasks} == set(expected)
  for task, rate in expected.items():
    ours = mixture._task_to_rate[task]
    if not isinstance(rate, dict):
      assert (ours if isinstance(ours, float) else ours(None)) == rate
    elif rate['function'] == 'rate_unsupervised':
      assert ours == rate['value']
    else:
      assert isinstance(ours, mixing.ProportionalRate)
      assert ours.factor == 1.0


TEXT = 'The boat is in the water, and the water is cold. ' * 40
C4 = dict.fromkeys(('content-length', 'content-type', 'timestamp', 'url'), '') | {'text': TEXT}
# Of the tasks without a golden example that are not a variant of one with.
RAW = {
  'c4': C4,
  'wikipedia': {'title': 'Boat', 'text': TEXT},
  'natural_questions_open': {'question': 'who sang it', 'answer': ['Ann', 'Ann B.']},
  'xsum_v110': {'document': TEXT, 'summary': 'A boat is in cold water.'},
}
SAME_DATA = {
  'rte_instructions_v001': 'glue_rte_v002',
  'trivia_qa_open': 'trivia_qa_v010',
  'wmt14_enfr_v003': 'wmt15_enfr_v003',
  'wmt19_ende_v003': 'wmt14_ende_v003',
}


def raw_examples(name):
  plain = name.replace('_1_sentinel', '')
  plain = SAME_DATA.get(plain, plain)
  if plain in GOLDEN:
    return GOLDEN[plain]['raw']
  [example] = (example for family, example in RAW.items() if name.startswith(family))
  return [example]


@pytest.mark.parametrize(
  'name',
  [
    name
    for name in sorted(seqio.TaskRegistry.names())
    if isinstance(seqio.TaskRegistry.get(name).source, local_data.LocalOrTfdsDataSource)
  ],
)
def test_each_task_can_be_looked_at(name, capsys):
  task = seqio.TaskRegistry.get(name)
  split = 'train' if 'train' in task.splits else sorted(task.splits)[0]
  lengths = '--lengths=' + ','.join(f'{feature}=512' for feature in task.output_features)
  with tfds_has(task, raw_examples(name)):
    arguments = [lengths, '--vocabulary=bytes', f'--split={split}', '--examples=1']
    assert cli.main(['tasks', 'show', name, *arguments]) == 0
  choices.begin()
  printed = capsys.readouterr().out
  for feature in task.output_features:
    assert f'example 0 {feature} (' in printed
