"""What `t5x-lite infer` can be asked, and from where, on a run of random parameters."""

import io
import json
import sys

import numpy as np
import pytest
import random_runs

import t5x_lite
from t5x_lite import cli

LINES = random_runs.LINES


@pytest.fixture(scope='module')
def model(random_run):
  return t5x_lite.load(random_run, batch_size=8)


@pytest.fixture
def infer(random_run, capfd):
  """Function that runs `t5x-lite infer`: (exit status, standard output, standard error)."""

  def run(*arguments):
    status = cli.main(
      ['infer', f'--gin.MODEL_DIR={random_run}', '--gin.BATCH_SIZE=8', *map(str, arguments)]
    )
    return status, *capfd.readouterr()

  return run


def write(path, objects):
  path.write_text(''.join(json.dumps(each) + '\n' for each in objects), encoding='utf-8')
  return path


def objects(text):
  return [json.loads(line) for line in text.splitlines()]


def test_answers_repeat_the_fields_of_json_lines(infer, tmp_path):
  questions = [{'id': i, 'inputs': line, 'more': [None, {'a': 1}]} for i, line in enumerate(LINES)]
  status, out, _ = infer(f'--gin.INPUT={write(tmp_path / "questions.jsonl", questions)}')
  assert status == 0
  for question, answer in zip(questions, objects(out), strict=True):
    assert {name: answer.pop(name) for name in question} == question
    assert set(answer) == {'prediction', 'score'}


def test_the_format_can_be_told(infer, tmp_path, monkeypatch):
  path = write(tmp_path / 'questions.txt', [{'inputs': 'a red fish'}])
  _, out, _ = infer(f'--gin.INPUT={path}', '--gin.CUT_LONG_INPUTS=True')
  assert objects(out)[0]['inputs'] == '{"inputs": "a red fish"}'
  _, as_jsonl, _ = infer(f'--gin.INPUT={path}', '--gin.INPUT_FORMAT=jsonl')
  assert objects(as_jsonl)[0]['inputs'] == 'a red fish'
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(path.read_bytes())))
  assert infer('--gin.INPUT_FORMAT=jsonl')[1] == as_jsonl


def test_each_line_may_have_a_prefix_of_its_answer(infer, model, tmp_path):
  vocabulary = model.vocabulary
  prefixes = ['red', 'a red fish', '', 'fish']
  lengths = [len(vocabulary.encode(prefix)) for prefix in prefixes]
  assert len(set(lengths)) > 2
  questions = [{'inputs': 'a red fish', 'prefix': prefix} for prefix in prefixes]
  path = write(tmp_path / 'questions.jsonl', questions)
  _, out, _ = infer(f'--gin.INPUT={path}', '--gin.MAX_NEW_TOKENS=2', '--gin.TOKEN_SCORES=True')
  answers = objects(out)
  for answer, length in zip(answers, lengths, strict=True):
    assert answer['prediction'].startswith(answer['prefix'])
    # The length that was asked for is that of what is new, whatever it is decoded beside.
    assert len(answer['token_ids']) <= length + 2
    assert answer['token_scores'][:length] == [0.0] * length
  [alone] = model.predict('a red fish', prefix=prefixes[1], max_new_tokens=2)
  assert alone['prediction'] == answers[1]['prediction']


BAD = {
  'missing': ('{"input": "a fish"}', "line 2 has no field 'inputs', but 'input'"),
  'no_text': ('{"inputs": 3}', 'line 2 has inputs=3, which is no text'),
  'no_json': ('a fish', 'line 2 is no JSON (Expecting value at column 1)'),
  'no_object': ('[1]', 'line 2 is no JSON object'),
  'half': (r'{"inputs": "a \ud83d fish"}', r'line 2 has \ud83d, which is no character'),
  'empty': ('', 'line 2 is empty'),
  'empty_inputs': ('{"inputs": " ", "id": 1}', 'line 2 has empty inputs'),
  'not_utf_8': (b'{"inputs": "caf\xe9"}', 'line 2 is not UTF-8 (byte 16)'),
  'too_long': (json.dumps({'inputs': 'fish ' * 50}), 'line 2 has inputs of 51 tokens, but 20 are'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_line_is_recorded_in_its_place_or_stops(infer, tmp_path, name):
  line, message = BAD[name]
  line = line if isinstance(line, bytes) else line.encode()
  path = tmp_path / 'questions.jsonl'
  path.write_bytes(b'{"inputs": "a fish"}\n' + line + b'\n{"inputs": "one bird"}\n')
  status, out, err = infer(f'--gin.INPUT={path}')
  first, bad, last = objects(out)
  assert status == 0 and 'prediction' in first and 'prediction' in last
  assert bad['error'].startswith(message)
  assert '1 of them have an error in place of an answer' in err
  status, _, err = infer(f'--gin.INPUT={path}', '--gin.BAD_LINES=stop')
  assert status == 2
  [error] = [line for line in err.splitlines() if 'error' in line]
  assert error.startswith(f't5x-lite: error: line 2 of {path} {message.partition(" 2 ")[2]}')


def test_targets_are_scored(infer, model, tmp_path):
  questions = [{'inputs': line, 'targets': line.split()[-1]} for line in LINES]
  path = write(tmp_path / 'questions.jsonl', questions)
  _, out, _ = infer(f'--gin.INPUT={path}', '--gin.MODE=score')
  scored = objects(out)
  scores = model.score(*([each[name] for each in questions] for name in ('inputs', 'targets')))
  np.testing.assert_allclose([each['score'] for each in scored], scores, rtol=1e-5)
  _, out, _ = infer(f'--gin.INPUT={path}', '--gin.MODE=score', '--gin.TOKEN_SCORES=True')
  for each, plain in zip(objects(out), scored, strict=True):
    assert each['token_ids'] == [*model.vocabulary.encode(each['targets']), 1]
    assert each['score'] == pytest.approx(sum(each['token_scores']))
    assert each['score'] == pytest.approx(plain['score'], rel=1e-5)
  write(path, [{'inputs': 'a fish'}, {'inputs': 'a fish', 'targets': 'fish ' * 9}])
  missing, long = objects(infer(f'--gin.INPUT={path}', '--gin.MODE=score')[1])
  assert missing['error'] == "line 1 has no field 'targets', but 'inputs'"
  assert 'line 2 has targets of 10 tokens, but 4 are the most' in long['error']


def test_the_score_of_what_is_predicted_is_the_one_it_was_given(infer, tmp_path):
  path = write(tmp_path / 'questions.jsonl', [{'inputs': line} for line in LINES])
  allowed = '--gin.ALLOWED=["red", "fish", "a bird"]'
  _, out, _ = infer(
    f'--gin.INPUT={path}', allowed, '--gin.FORCED={2: 1}', '--gin.TOKEN_SCORES=True'
  )
  predicted = objects(out)
  questions = [{'inputs': each['inputs'], 'targets': each['prediction']} for each in predicted]
  write(path, questions)
  scored = objects(infer(f'--gin.INPUT={path}', '--gin.MODE=score', '--gin.TOKEN_SCORES=True')[1])
  for one, other in zip(predicted, scored, strict=True):
    assert one['token_ids'] == other['token_ids']
    np.testing.assert_allclose(one['token_scores'], other['token_scores'], rtol=1e-4)


def test_labels_are_ranked(infer, model, tmp_path):
  own = ['fish', 'a', 'a bird']
  questions = [{'inputs': LINES[0]}, {'inputs': LINES[1], 'labels': own}, {'inputs': LINES[2]}]
  path = write(tmp_path / 'questions.jsonl', questions)
  _, out, _ = infer(f'--gin.INPUT={path}', '--gin.MODE=rank', "--gin.LABELS=['red', 'fish']")
  for answer, labels in zip(objects(out), (['red', 'fish'], own, ['red', 'fish']), strict=True):
    scores = model.score([answer['inputs']] * len(labels), labels)
    told = {each['prediction']: each['score'] for each in answer['answers']}
    np.testing.assert_allclose([told[label] for label in labels], scores, rtol=1e-5)
    assert answer['prediction'] == labels[int(np.argmax(scores))]
    assert list(told.values()) == sorted(told.values(), reverse=True)
    [same] = model.rank([answer['inputs']], labels)
    assert same['prediction'] == answer['prediction']
  without = objects(infer(f'--gin.INPUT={path}', '--gin.MODE=rank')[1])
  assert without[0]['error'] == "line 1 has no field 'labels', but 'inputs'"


def test_inputs_are_encoded(infer, model, tmp_path):
  lines = [*LINES[:3], '', *LINES[3:]]
  path = tmp_path / 'questions.txt'
  path.write_text('\n'.join(lines))
  arguments = [f'--gin.INPUT={path}', '--gin.MODE=encode']
  assert infer(*arguments, f'--gin.OUTPUT={tmp_path}/mean.npz')[0] == 0
  assert infer(*arguments, f'--gin.OUTPUT={tmp_path}/all.npz', '--gin.POOLING=none')[0] == 0
  mean, states = np.load(tmp_path / 'mean.npz'), np.load(tmp_path / 'all.npz')
  assert mean['states'].shape == (11, model.config.emb_dim)
  assert mean['states'].dtype == states['states'].dtype == np.float32
  assert list(mean['errors']) == ['', '', '', 'line 4 is empty', *[''] * 7]
  assert np.isnan(mean['states'][3]).all() and states['lengths'][3] == 0
  for number, of_input in enumerate(np.split(states['states'], np.cumsum(states['lengths'])[:-1])):
    if number == 3:
      continue
    ids = [*model.vocabulary.encode(lines[number]), 1]
    assert len(of_input) == len(ids)
    np.testing.assert_allclose(of_input.mean(axis=0), mean['states'][number], rtol=1e-5, atol=1e-6)
    [alone] = model.encode([lines[number]], pooling='none')
    np.testing.assert_allclose(alone, of_input, rtol=1e-5, atol=1e-6)


def test_a_task_is_scored_ranked_and_encoded(infer, tmp_path):
  task = '--gin.MIXTURE_OR_TASK_NAME=last_word'
  scored = objects(infer(task, '--gin.MODE=score')[1])
  assert [each['targets'] for each in scored] == [line.split()[-1] for line in LINES]
  ranked = objects(infer(task, '--gin.MODE=rank', "--gin.LABELS=['red', 'fish']")[1])
  for one, other in zip(scored, ranked, strict=True):
    told = {each['prediction']: each['score'] for each in other['answers']}
    if one['targets'] in told:
      assert told[one['targets']] == pytest.approx(one['score'], rel=1e-5)
  assert infer(task, '--gin.MODE=encode', f'--gin.OUTPUT={tmp_path}/states.npz')[0] == 0
  assert len(np.load(tmp_path / 'states.npz')['states']) == len(LINES)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--gin.MODE=guess'], "MODE='guess' may be 'predict', 'score', 'rank', 'encode'"),
    (['--gin.INPUT_FORMAT=csv'], "INPUT_FORMAT='csv' may be 'text', 'jsonl'"),
    (['--gin.BAD_LINES=skip'], "BAD_LINES='skip' may be 'record', 'stop'"),
    (['--gin.MODE=encode'], "MODE='encode' writes arrays, OUTPUT=- takes text"),
    (['--gin.MODE=score', '--gin.NUM_BEAMS=2'], "num_beams=2 does nothing with MODE='score'"),
    (["--gin.LABELS=['a']"], "LABELS=['a'] does nothing with MODE='predict'"),
    (['--gin.POOLING=none'], "POOLING='none' does nothing with MODE='predict'"),
    (['--gin.MODE=rank', '--gin.TOKEN_SCORES=True'], 'TOKEN_SCORES=True does nothing'),
    (['--gin.MODE=rank', '--gin.MIXTURE_OR_TASK_NAME=last_word'], "'last_word' has no labels"),
    (['--interactive', '--gin.OUTPUT=x.jsonl'], '--interactive answers what is typed'),
  ],
)
def test_a_mistake_is_answered_in_one_line(infer, arguments, message):
  status, _, err = infer(*arguments)
  assert status == 2
  [line] = [line for line in err.splitlines() if 'error' in line]
  assert message in line


class Typed(io.StringIO):
  def isatty(self):
    return False


def test_options_change_while_one_types(infer, monkeypatch):
  typed = [
    'a red fish',
    '/num_beams=3 num_answers=2',
    'a red fish',
    '/num_beams=1',
    '/reset',
    "/temperature=5.0 forced='{0: 7}'",
    'a red fish',
    'a red fish',
    '/options',
    '/tempreture=3',
    '/temperature=hot',
    '/help',
    '',
    'fish ' * 50,
    '/quit',
    'not asked',
  ]
  monkeypatch.setattr(sys, 'stdin', Typed('\n'.join(typed)))
  status, out, _ = infer('--interactive', '--gin.MAX_NEW_TOKENS=20')
  assert status == 0
  greedy, first, second, wrong, *rest = out.splitlines()
  assert greedy.endswith(')') and first.endswith(')') and second.endswith(')')
  assert wrong.startswith('error: num_answers=2 needs num_beams=2 or more')
  drawn, again, *rest = rest
  assert drawn != again  # Else one would not ask again.
  assert 'temperature=5.0' in rest and 'max_new_tokens=20' in rest
  errors = [line for line in rest if line.startswith('error')]
  assert 'did you mean temperature' in errors[0]
  assert errors[1] == 'error: /temperature=hot: float is wanted'
  assert 'has inputs of 51 tokens' in errors[2]
  assert len(errors) == 3 and any('Ctrl-D' in line for line in rest)
