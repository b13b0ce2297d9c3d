"""A run that is asked from Python, against the commands that ask it."""

import json

import numpy as np
import pytest
import random_runs

import t5x_lite
from t5x_lite import cli, errors

LINES = random_runs.LINES


@pytest.fixture(scope='module')
def model(random_run):
  return t5x_lite.load(random_run, batch_size=8)


def test_it_predicts_what_the_command_does(random_run, model, tmp_path, capfd):
  text = tmp_path / 'lines.txt'
  text.write_text('\n'.join([*LINES, '']))
  arguments = [
    '--gin.NUM_BEAMS=3',
    '--gin.NUM_ANSWERS=2',
    f'--gin.INPUT={text}',
    '--gin.BATCH_SIZE=8',
  ]
  assert cli.main(['infer', f'--gin.MODEL_DIR={random_run}', *arguments]) == 0
  printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
  assert model.predict(LINES, num_beams=3, num_answers=2) == printed
  [alone] = model.predict(LINES[0], num_beams=3, num_answers=2)
  assert alone['prediction'] == printed[0]['prediction']


def test_the_score_of_a_greedy_answer_is_the_one_it_was_given(model):
  # Of answers that end before they are cut, so that EOS is one of their tokens.
  eos = model.vocabulary.eos_id
  answers = model.predict(LINES, forced={2: eos}, allowed=['red', 'fish', 'a bird'])
  scores = model.score(LINES, [answer['prediction'] for answer in answers])
  assert scores.shape == (len(LINES),) and scores.dtype == np.float32
  np.testing.assert_allclose(scores, [answer['score'] for answer in answers], rtol=1e-4)
  assert model.score([], []).shape == (0,)


def test_it_evaluates_as_the_command_does(random_run, model, capfd):
  assert cli.main(['eval', f'--gin.MODEL_DIR={random_run}', '--gin.BATCH_SIZE=8']) == 0
  table = dict(line.split() for line in capfd.readouterr().out.splitlines()[1:])
  results = model.evaluate()
  assert list(results) == ['last_word']
  for name, value in table.items():
    assert results['last_word'][name.partition('/')[2]] == pytest.approx(float(value), abs=1e-4)
  assert model.evaluate('last_word', num_examples=2).keys() == results.keys()


@pytest.mark.parametrize('weights', ['bfloat16', 'int8'])
def test_smaller_weights_answer_nearly_alike(random_run, model, weights):
  small = t5x_lite.load(random_run, batch_size=8, weights=weights)
  targets = ['red'] * len(LINES)
  exact, scores = model.score(LINES, targets), small.score(LINES, targets)
  assert np.any(scores != exact)
  np.testing.assert_allclose(scores, exact, rtol=0.02)
  assert len(small.predict(LINES, num_beams=2)) == len(LINES)


def test_mistakes_are_told(random_run, model):
  with pytest.raises(errors.UserError, match='2 inputs, but 1 targets: give one to each'):
    model.score(['a', 'b'], ['c'])
  with pytest.raises(errors.UserError, match='top_k=3 does nothing without a temperature'):
    model.predict('a', top_k=3)
  with pytest.raises(errors.UserError, match='there are 0, 20'):
    t5x_lite.load(random_run, checkpoint=7)
  with pytest.raises(errors.UserError, match="checkpoint='all' are several"):
    t5x_lite.load(random_run, checkpoint='all')
