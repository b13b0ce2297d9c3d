"""`t5x-lite export` for TensorFlow: what a Python without jax makes of the SavedModel."""

import json

import bare_python
import expected_texts
import numpy as np
import pytest
import random_runs
import seqio

from t5x_lite import cli

LINES = [*random_runs.LINES, 'a <extra_id_0> fish', 'caf\u00e9 \U0001f41f ' * 8]
TARGETS = ['a', 'red', 'fi'] * 4
LENGTHS = {'inputs': 20, 'targets': 4}
ASK = """
import tensorflow as tf

if arguments['has_pieces']:
  import tensorflow_text
signatures = tf.saved_model.load(arguments['folder']).signatures
results = []
for n in arguments['sizes']:
  inputs, targets = (tf.constant(arguments[name][:n], tf.string) for name in ('inputs', 'targets'))
  answered = signatures['serving_default'](inputs=inputs)
  predictions = [[text.decode() for text in row] for row in answered['predictions'].numpy()]
  of_targets = signatures['score'](inputs=inputs, targets=targets)['scores']
  results.append([predictions, answered['scores'].numpy().tolist(), of_targets.numpy().tolist()])
messages = []
for inputs in arguments['refused']:
  try:
    signatures['serving_default'](inputs=tf.constant(inputs))
  except tf.errors.InvalidArgumentError as error:
    messages.append(str(error))
print(json.dumps({'results': results, 'messages': messages}))
"""


@pytest.fixture(scope='session')
def python_with_tensorflow(tmp_path_factory):
  return bare_python.make(tmp_path_factory.mktemp('bare') / 'tensorflow', 'tensorflow')


@pytest.fixture(scope='session')
def python_with_tensorflow_text(tmp_path_factory):
  packages = tmp_path_factory.mktemp('bare') / 'tensorflow_text'
  return bare_python.make(packages, 'tensorflow', 'tensorflow-text')


def check(python, exported, run, decoding, sizes, refused=(), has_pieces=True, weights=None):
  """Compares texts and scores of the SavedModel with the run's; returns errors of refused inputs."""
  answer = bare_python.run(
    python,
    ASK,
    exported,
    absent=['jax', 'sentencepiece', *([] if has_pieces else ['tensorflow_text'])],
    folder=str(exported),
    inputs=LINES,
    targets=TARGETS,
    sizes=sizes,
    refused=refused,
    has_pieces=has_pieces,
  )
  texts, scores, of_targets = expected_texts.of(run, LENGTHS, LINES, TARGETS, decoding, weights)
  for n, result in zip(sizes, answer['results'], strict=True):
    assert result[0] == texts[:n]
    np.testing.assert_allclose(np.reshape(result[1], scores[:n].shape), scores[:n], rtol=1e-4)
    np.testing.assert_allclose(result[2], of_targets[:n], rtol=1e-4)
  return answer['messages']


@pytest.mark.slow
@pytest.mark.parametrize(
  'arguments, decoding',
  [
    ([], {}),
    (['NUM_BEAMS=4', 'NUM_ANSWERS=2'], {'num_beams': 4, 'num_answers': 2}),
    (
      ['TEMPERATURE=0.9', 'TOP_P=0.9', 'NUM_ANSWERS=2', 'DECODING_SEED=7'],
      {'temperature': 0.9, 'top_p': 0.9, 'num_answers': 2, 'seed': 7},
    ),
    (
      ["ALLOWED=['red', 'fish']", 'NUM_BEAMS=2', 'NUM_ANSWERS=2'],
      {'allowed': ['red', 'fish'], 'num_beams': 2, 'num_answers': 2},
    ),
  ],
  ids=['greedy', 'beams', 'samples', 'allowed'],
)
def test_tensorflow_answers_texts_as_the_run_does(
  word_run, export, python_with_tensorflow_text, arguments, decoding
):
  flags = [f'--gin.{argument}' for argument in arguments]
  exported = export(word_run, '--gin.FORMAT=tensorflow', '--gin.CUT_LONG_INPUTS=True', *flags)
  sizes = (5,) if decoding else (0, 1, 12)
  check(python_with_tensorflow_text, exported, word_run, decoding, sizes)


@pytest.mark.slow
def test_int8_weights_answer_under_tensorflow(word_run, export, python_with_tensorflow_text):
  arguments = ['--gin.FORMAT=tensorflow', '--gin.CUT_LONG_INPUTS=True', '--gin.WEIGHTS=int8']
  exported = export(word_run, *arguments)
  check(python_with_tensorflow_text, exported, word_run, {}, (5,), weights='int8')


@pytest.mark.slow
def test_bytes_need_nothing_but_tensorflow(byte_run, export, python_with_tensorflow):
  arguments = ['--gin.FORMAT=tensorflow', '--gin.BATCH_SIZES=(2, 8)', '--gin.NUM_BEAMS=2']
  exported = export(byte_run, *arguments, f'--gin.TASK_FEATURE_LENGTHS={LENGTHS}')
  [too_many, too_long] = check(
    python_with_tensorflow,
    exported,
    byte_run,
    {'num_beams': 2},
    sizes=(0, 1, 2, 5),
    refused=[['a'] * 9, ['a', 'fish ' * 5]],
    has_pieces=False,
  )
  assert 'was exported for at most 8 rows at a time' in too_many
  assert 'inputs of more tokens than 20, which are the most' in too_long
  manifest = json.loads((exported / 'manifest.json').read_text())
  assert manifest['format'] == 'tensorflow' and manifest['versions']['tensorflow']


def test_a_vocabulary_without_texts_is_told(tmp_path, capsys):
  run, exported = tmp_path / 'run', tmp_path / 'exported'
  numbers = seqio.PassThroughVocabulary(128, eos_id=1)
  random_runs.write_model(run, random_runs.CONFIG, numbers, 'numbers')
  arguments = [f'--gin.MODEL_DIR={run}', f'--gin.OUTPUT={exported}']
  assert cli.main(['export', *arguments, '--gin.FORMAT=tensorflow']) == 2
  assert "makes no tokens: export with FORMAT='jax'" in capsys.readouterr().err
  assert not exported.exists()
  assert cli.main(['export', *arguments]) == 0
  assert not (exported / 'texts.py').exists()
