"""`t5x-lite eval` and `t5x-lite infer` on a run with checkpoints of random parameters."""

import io
import json
import sys

import pytest
import random_runs

from t5x_lite import cli
from t5x_lite.data import vocabulary

LINES = random_runs.LINES


@pytest.fixture
def run(random_run):
  return random_run


def command(*arguments):
  """Runs `t5x-lite` in this process and returns its exit status."""
  return cli.main([str(argument) for argument in arguments])


def give_input(monkeypatch, content):
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))


def objects(text):
  return [json.loads(line) for line in text.splitlines()]


def test_eval_needs_the_folder_of_the_run_only(run, capfd):
  assert command('eval', f'--gin.MODEL_DIR={run}', '--gin.BATCH_SIZE=8') == 0
  out = capfd.readouterr().out
  assert [line.split()[0] for line in out.splitlines()[1:]] == [
    'last_word/exact', 'last_word/loss'
  ]  # fmt: skip
  predictions = objects((run / 'predictions' / 'last_word-20.jsonl').read_text())
  assert [line['inputs'] for line in predictions] == LINES


def test_eval_of_all_checkpoints_marks_the_best_and_writes_the_metrics(run, capfd):
  arguments = ['--gin.CHECKPOINT=all', '--gin.BATCH_SIZE=8', '--gin.NUM_EXAMPLES=5']
  assert command('eval', f'--gin.MODEL_DIR={run}', *arguments) == 0
  header, *rows, legend = capfd.readouterr().out.splitlines()
  assert header.split() == ['step', '0', 'step', '20']
  assert 'best' in legend
  name, *losses = next(row for row in rows if row.startswith('last_word/loss')).split()
  assert losses[0].endswith('*') != losses[1].endswith('*')
  lower = min(losses, key=lambda loss: float(loss.rstrip('*')))
  assert lower.endswith('*')
  lines = objects((run / 'metrics' / 'infer.jsonl').read_text())[-2:]
  assert [line['step'] for line in lines] == [0, 20]
  assert lines[1]['last_word/loss'] == pytest.approx(float(losses[1].rstrip('*')), abs=1e-4)


def test_infer_answers_a_file_in_the_order_of_its_lines(run, tmp_path, capfd):
  questions, answers = tmp_path / 'questions.txt', tmp_path / 'new' / 'answers.jsonl'
  long = 'fish ' * 50
  questions.write_text('\ufeff' + '\n'.join([*LINES, '', long, 'caf\u00e9']))
  arguments = [f'--gin.INPUT={questions}', f'--gin.OUTPUT={answers}', '--gin.BATCH_SIZE=8']
  assert command('infer', f'--gin.MODEL_DIR={run}', *arguments) == 0
  captured = capfd.readouterr()
  assert captured.out == ''
  assert 'example 13/13 examples/s' in captured.err and 'eta 0s' in captured.err
  assert '2 of them have an error in place of an answer, the first: line 11' in captured.err
  lines = objects(answers.read_text())
  assert [line['inputs'] for line in lines] == [*LINES, '', long, 'caf\u00e9']
  assert lines[10] == {'inputs': '', 'error': 'line 11 is empty'}
  assert 'line 12 has inputs of 51 tokens, but 20 are the most' in lines[11]['error']
  assert all('prediction' in line for i, line in enumerate(lines) if i not in (10, 11))
  assert lines[0]['prediction'] == lines[5]['prediction']
  assert [path.name for path in answers.parent.iterdir()] == ['answers.jsonl']
  arguments.append('--gin.CUT_LONG_INPUTS=True')
  assert command('infer', f'--gin.MODEL_DIR={run}', *arguments) == 0
  assert 'prediction' in objects(answers.read_text())[11]


def test_infer_answers_standard_input_the_same_alone_and_in_a_batch(run, capfd, monkeypatch):
  give_input(monkeypatch, '\n'.join(LINES).encode())
  assert command('infer', f'--gin.MODEL_DIR={run}', '--gin.BATCH_SIZE=16') == 0
  together = objects(capfd.readouterr().out)
  assert [line['inputs'] for line in together] == LINES
  for line in together[:2]:
    give_input(monkeypatch, line['inputs'].encode())
    assert command('infer', f'--gin.MODEL_DIR={run}', '--gin.BATCH_SIZE=8') == 0
    [alone] = objects(capfd.readouterr().out)
    assert alone['score'] == pytest.approx(line['score'], rel=1e-5)
    assert alone['prediction'] == line['prediction']


def test_infer_answers_a_task_with_the_predictions_of_its_evaluation(run, capfd):
  assert command('eval', f'--gin.MODEL_DIR={run}', '--gin.BATCH_SIZE=8') == 0
  capfd.readouterr()
  arguments = ['--gin.MIXTURE_OR_TASK_NAME=last_word', '--gin.BATCH_SIZE=8']
  assert command('infer', f'--gin.MODEL_DIR={run}', *arguments) == 0
  answers = objects(capfd.readouterr().out)
  evaluated = objects((run / 'predictions' / 'last_word-20.jsonl').read_text())
  assert answers == evaluated


TRANSFORMS = """
import jax.numpy as jnp

from t5x_lite.decoding import logits


def pieces(values, context):
  ids = jnp.arange(values.shape[-1])
  is_none = (ids >= 24) | (ids == 2)  # Unknown, sentinels, and what the vocabulary lacks.
  return jnp.where(is_none, logits.BANNED, values)


def first_is(values, context):
  is_other = jnp.arange(values.shape[-1]) != 7
  return jnp.where(is_other & (context.index == 0), logits.BANNED, values)
"""


@pytest.fixture
def pieces(tmp_path):
  """Arguments that let the model answer with pieces of its vocabulary alone."""
  module = tmp_path / 'my_transforms.py'
  module.write_text(TRANSFORMS)
  yield [f'--module={module}', '--gin.LOGITS_TRANSFORMS=[@my_transforms.pieces]']
  sys.modules.pop('my_transforms', None)


@pytest.mark.parametrize(
  'arguments, number',
  [
    (['--gin.NUM_BEAMS=3', '--gin.NUM_ANSWERS=3', '--gin.ALPHA=1.0', '--gin.LENGTH_PENALTY=length'], 3),
    (['--gin.NUM_BEAMS=4', '--gin.NUM_ANSWERS=4', '--gin.NUM_BEAM_GROUPS=2',
      '--gin.DIVERSITY_PENALTY=9.0'], 4),
    (['--gin.TEMPERATURE=2.0', '--gin.NUM_ANSWERS=2', '--gin.TOP_K=9', '--gin.TOP_P=0.9',
      '--gin.MIN_P=0.01', '--gin.DECODING_SEED=4'], 2),
  ],
)  # fmt: skip
def test_infer_gives_several_answers_the_same_in_any_batch(
  run, capfd, monkeypatch, pieces, arguments, number
):
  printed = []
  for batch_size in (8, 16):
    give_input(monkeypatch, '\n'.join(LINES).encode())
    common = [*pieces, '--gin.MAX_NEW_TOKENS=5', f'--gin.BATCH_SIZE={batch_size}']
    assert command('infer', f'--gin.MODEL_DIR={run}', *common, *arguments) == 0
    printed.append(objects(capfd.readouterr().out))
  for line, other in zip(*printed, strict=True):
    assert line['prediction'] == line['answers'][0]['prediction']
    scores = [answer['score'] for answer in line['answers']]
    assert len(scores) == number and scores == sorted(scores, reverse=True)
    answers = [[each['prediction'] for each in one['answers']] for one in (line, other)]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 1


def test_infer_obeys_constraints(run, capfd, monkeypatch, pieces):
  words = vocabulary.load(run / 'vocabulary')

  def answers(*arguments):
    give_input(monkeypatch, '\n'.join(LINES).encode())
    assert command('infer', f'--gin.MODEL_DIR={run}', *pieces, *arguments) == 0
    return [line['prediction'] for line in objects(capfd.readouterr().out)]

  allowed = [words.decode([5, 6]), words.decode([8])]
  assert set(answers(f'--gin.ALLOWED={allowed}')) <= set(allowed)
  prefix = words.decode([9, 6])
  forced = answers(f'--gin.PREFIX={prefix}', '--gin.FORCED={0: 10}', '--gin.MAX_NEW_TOKENS=2')
  assert all(each.startswith(prefix) and words.encode(each)[2] == 10 for each in forced)
  plain = answers('--gin.MIN_NEW_TOKENS=6')
  assert all(len(words.encode(each)) <= 7 for each in plain)
  banned = sorted({token for each in plain for token in words.encode(each)})[:3]
  others = answers('--gin.MIN_NEW_TOKENS=6', f'--gin.BANNED={banned}')
  assert not any(set(words.encode(each)) & set(banned) for each in others)
  for changed in ('--gin.NO_REPEAT_NGRAM_SIZE=1', '--gin.REPETITION_PENALTY=9.0'):
    assert answers('--gin.MIN_NEW_TOKENS=6', changed) != plain
  own = answers('--gin.LOGITS_TRANSFORMS=[@my_transforms.pieces, @my_transforms.first_is]')
  assert words.decode([7]) and all(each.startswith(words.decode([7])) for each in own)


def test_infer_says_where_no_answer_meets_the_constraints(run, capfd, monkeypatch):
  give_input(monkeypatch, b'a red fish')
  arguments = ['--gin.NUM_BEAMS=2', '--gin.ALLOWED=["red"]', '--gin.BANNED=["red"]']
  assert command('infer', f'--gin.MODEL_DIR={run}', *arguments) == 0
  assert objects(capfd.readouterr().out) == [
    {'inputs': 'a red fish', 'error': 'no answer meets all constraints'}
  ]


def test_infer_in_another_dtype(run, capfd, monkeypatch):
  give_input(monkeypatch, b'a fish')
  arguments = ['--gin.DTYPE=bfloat16', '--gin.BATCH_SIZE=8']
  assert command('infer', f'--gin.MODEL_DIR={run}', *arguments) == 0
  [answer] = objects(capfd.readouterr().out)
  assert answer['inputs'] == 'a fish'


def test_eval_of_int8_weights_finds_nearly_the_same_loss(run, capfd):
  losses = []
  for weights in ('None', 'int8'):
    assert command('eval', f'--gin.MODEL_DIR={run}', f'--gin.WEIGHTS={weights}') == 0
    table = dict(line.split() for line in capfd.readouterr().out.splitlines()[1:])
    losses.append(float(table['last_word/loss']))
  exact, near = losses
  assert exact != near == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['eval', '--gin.MODEL_DIR={empty}'], 'no complete checkpoint in'),
    (['eval', '--gin.MODEL_DIR={empty}/nothing'], 'there is no such folder'),
    (['eval', '--gin.CHECKPOINT=7'], 'no checkpoint of step 7 in'),
    (['eval', '--gin.CHECKPOINT=best'], 'a step or a list of steps, of which there are 0, 20'),
    (['eval', '--gin.MIXTURE_OR_TASK_NAME=last_wort'], 'did you mean last_word'),
    (['eval', '--gin.MIXTURE_OR_TASK_NAME=of_other_vocabulary'], 'bytes'),
    (['eval', '--gin.SPLIT=test'], "no split 'test'"),
    (['eval', '--gin.BATCH_SIZE=3'], 'BATCH_SIZE=3 is not divisible'),
    (['eval', '--gin.WEIGHTS=int4'], "WEIGHTS='int4' may be 'bfloat16', 'int8', or None"),
    (['infer', '--gin.CHECKPOINT=all'], 'is for `t5x-lite eval`'),
    (['infer', '--gin.INPUT={empty}/nothing.txt'], 'nothing.txt: No such file'),
    (['infer', '--gin.INPUT={latin}', '--gin.BAD_LINES=stop'], 'line 2 of'),
    (['infer', '--gin.INPUT=x', '--gin.MIXTURE_OR_TASK_NAME=y'], 'exclude each other'),
    (['infer', '--gin.NUM_ANSWERS=2'], 'num_answers=2 needs num_beams=2 or more'),
    (['infer', '--gin.BANNED=[99999]'], 'banned=99999 is no text and no token ids'),
    (['infer', "--gin.ALLOWED=['a b c d e f g h']"], 'tokens, but answers have at most'),
    (['infer', '--gin.INPUT={text}', '--gin.OUTPUT={empty}'], 'cannot write OUTPUT='),
  ],
)
def test_a_mistake_is_answered_in_one_line(run, tmp_path, capfd, arguments, message):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'latin.txt').write_bytes(b'a fish\ncaf\xe9\n')
  (tmp_path / 'text.txt').write_text('a fish\n')
  places = {name: tmp_path / f'{name}.txt' for name in ('latin', 'text')}
  arguments = [text.format(empty=tmp_path / 'empty', **places) for text in arguments]
  if not any(text.startswith('--gin.MODEL_DIR') for text in arguments):
    arguments.append(f'--gin.MODEL_DIR={run}')
  assert command(*arguments) == 2
  [line] = [line for line in capfd.readouterr().err.splitlines() if 'error' in line]
  assert line.startswith('t5x-lite: error: ')
  assert message in line
