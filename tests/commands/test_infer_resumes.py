"""`t5x-lite infer`, stopped in all ways and started again."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import random_runs

from t5x_lite import cli
from t5x_lite.evaluation import parts

LINES = [f'{line} {i % 7 * "and a fish "}' for i, line in enumerate(random_runs.LINES * 60)]


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'questions.txt'
  path.write_text('\n'.join(LINES), encoding='utf-8')
  return path


@pytest.fixture
def arguments(random_run, text):
  return [
    'infer',
    f'--gin.MODEL_DIR={random_run}',
    f'--gin.INPUT={text}',
    '--gin.BATCH_SIZE=8',
    '--gin.CUT_LONG_INPUTS=True',
  ]


def answers(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def undisturbed(random_run, tmp_path_factory):
  """Answers to the lines by a run that nothing stopped."""
  folder = tmp_path_factory.mktemp('undisturbed')
  (folder / 'questions.txt').write_text('\n'.join(LINES), encoding='utf-8')
  arguments = ['--gin.BATCH_SIZE=8', '--gin.CUT_LONG_INPUTS=True']
  files = [f'--gin.INPUT={folder}/questions.txt', f'--gin.OUTPUT={folder}/answers.jsonl']
  assert cli.main(['infer', f'--gin.MODEL_DIR={random_run}', *arguments, *files]) == 0
  return answers(folder / 'answers.jsonl')


def check_same(found, wanted):
  assert len(found) == len(wanted) == len(LINES)
  for one, other in zip(found, wanted, strict=True):
    assert one.pop('score') == pytest.approx(other['score'], rel=1e-5)
    assert one == {name: value for name, value in other.items() if name != 'score'}


@pytest.mark.slow
def test_what_is_killed_goes_on_and_loses_and_repeats_nothing(
  arguments, tmp_path, undisturbed, command
):
  output = tmp_path / 'answers.jsonl'
  arguments += [f'--gin.OUTPUT={output}', '--gin.BATCH_SIZE=2']
  kept = []
  for _ in range(3):
    process = command(*arguments)
    part = tmp_path / 'answers.jsonl.partial' / 'answers-0'
    before = part.read_bytes().count(b'\n') if part.exists() else 0
    while not part.exists() or part.read_bytes().count(b'\n') < before + 20:
      assert process.poll() is None, process.communicate()[1]
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    kept.append(part.read_bytes().count(b'\n'))
  assert kept == sorted(set(kept)) and kept[-1] < len(LINES)
  process = command(*arguments)
  _, error = process.communicate()
  assert process.returncode == 0, error
  assert f'{kept[-1]:,} examples were answered before' in error
  check_same(answers(output), undisturbed)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['answers.jsonl', 'questions.txt']


def stop_in_the_middle(arguments, text, capfd):
  """Leaves OUTPUT.partial with the answers before a line that is not UTF-8, and mends the line."""
  content = text.read_bytes()
  lines = content.split(b'\n')
  lines[300] = b'caf\xe9'
  text.write_bytes(b'\n'.join(lines))
  assert cli.main([*arguments, '--gin.BAD_LINES=stop']) == 2
  assert f'line 301 of {text} is not UTF-8' in capfd.readouterr().err
  text.write_bytes(content)


def test_a_broken_last_line_is_written_anew(arguments, text, tmp_path, undisturbed, capfd):
  output = tmp_path / 'answers.jsonl'
  arguments.append(f'--gin.OUTPUT={output}')
  stop_in_the_middle(arguments, text, capfd)
  part = tmp_path / 'answers.jsonl.partial' / 'answers-0'
  content = part.read_bytes()
  assert content.count(b'\n') >= 100
  part.write_bytes(content[:-30])
  assert cli.main(arguments) == 0
  number = content.count(b'\n') - 1
  assert f'{number} examples were answered before' in capfd.readouterr().err
  check_same(answers(output), undisturbed)


def test_states_go_on_too(arguments, text, tmp_path, capfd):
  arguments += ['--gin.MODE=encode', '--gin.POOLING=none']
  for name in ('whole', 'stopped'):
    all_arguments = [*arguments, f'--gin.OUTPUT={tmp_path / name}.npz']
    if name == 'stopped':
      stop_in_the_middle(all_arguments, text, capfd)
      states = tmp_path / 'stopped.npz.partial' / 'states-0'
      states.write_bytes(states.read_bytes() + b'abc')  # Killed while it wrote.
    assert cli.main(all_arguments) == 0
  whole, stopped = (np.load(tmp_path / f'{name}.npz') for name in ('whole', 'stopped'))
  np.testing.assert_array_equal(whole['lengths'], stopped['lengths'])
  np.testing.assert_allclose(whole['states'], stopped['states'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'changed, message',
  [
    (['--gin.NUM_BEAMS=2'], 'was begun with num_beams=1, but now it is 2'),
    (['--gin.CHECKPOINT=0'], 'was begun with CHECKPOINT=20, but now it is 0'),
    (['--gin.MODE=rank', '--gin.LABELS=["a"]'], 'was begun with LABELS=[], but now it is'),
    (['--gin.INPUT={other}'], 'input 1 is not the one that'),
  ],
)
def test_what_would_not_fit_is_refused_and_harms_nothing(
  arguments, text, tmp_path, undisturbed, capfd, changed, message
):
  (tmp_path / 'other.txt').write_text('one bird\n')
  changed = [each.format(other=tmp_path / 'other.txt') for each in changed]
  output = tmp_path / 'answers.jsonl'
  arguments.append(f'--gin.OUTPUT={output}')
  stop_in_the_middle(arguments, text, capfd)
  assert cli.main([*arguments, *changed]) == 2
  assert message in capfd.readouterr().err
  assert cli.main(arguments) == 0
  check_same(answers(output), undisturbed)


def test_a_line_that_was_an_error_may_be_mended(
  arguments, text, tmp_path, undisturbed, capfd, monkeypatch
):
  output = tmp_path / 'answers.jsonl'
  arguments.append(f'--gin.OUTPUT={output}')
  content = text.read_bytes()
  text.write_bytes(b'\n' + content.partition(b'\n')[2])

  def interrupt(*_):  # A process in the background may have been told to ignore the signal itself.
    raise KeyboardInterrupt

  with monkeypatch.context() as context:
    context.setattr(parts.Parts, 'finish', interrupt)
    assert cli.main(arguments) == 130
  assert 'the same command goes on from there' in capfd.readouterr().err
  assert b'line 1 is empty' in (tmp_path / 'answers.jsonl.partial' / 'answers-0').read_bytes()
  text.write_bytes(content)
  assert cli.main(arguments) == 0
  assert f'{len(LINES) - 1} examples were answered before' in capfd.readouterr().err
  check_same(answers(output), undisturbed)


def test_a_file_that_is_being_written_is_left_alone(arguments, tmp_path, capfd):
  output = tmp_path / 'answers.jsonl'
  (tmp_path / 'answers.jsonl.partial').mkdir()
  with open(tmp_path / 'answers.jsonl.partial' / 'answers-0', 'wb') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    assert cli.main([*arguments, f'--gin.OUTPUT={output}']) == 2
  assert f'OUTPUT={output} is being written by another process' in capfd.readouterr().err


def test_a_full_disk_is_told_and_costs_nothing(
  arguments, tmp_path, undisturbed, capfd, monkeypatch
):
  output = tmp_path / 'answers.jsonl'
  arguments.append(f'--gin.OUTPUT={output}')
  add = parts.Parts.add
  count = iter(range(100))

  def add_until_full(self, *answer):
    if next(count, None) is None:
      self._answers = open('/dev/full', 'wb')
    add(self, *answer)

  with monkeypatch.context() as context:
    context.setattr(parts.Parts, 'add', add_until_full)
    assert cli.main(arguments) == 2
  error = capfd.readouterr().err
  assert f'cannot write OUTPUT={output}: No space left on device' in error
  assert f'the answers so far are kept in {output}.partial' in error
  assert cli.main(arguments) == 0
  assert '100 examples were answered before' in capfd.readouterr().err
  check_same(answers(output), undisturbed)


def on_two_hosts(arguments):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  environment = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  return [
    subprocess.Popen(
      [
        sys.executable,
        '-m',
        't5x_lite',
        *arguments,
        f'--coordinator_address={address}',
        '--num_processes=2',
        f'--process_id={number}',
      ],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for number in range(2)
  ]


@pytest.mark.slow
def test_two_hosts_share_the_answers_and_merge_them(arguments, tmp_path, undisturbed):
  output = tmp_path / 'answers.jsonl'
  arguments.append(f'--gin.OUTPUT={output}')
  processes = on_two_hosts(arguments)
  parts = [tmp_path / 'answers.jsonl.partial' / f'answers-{number}' for number in range(2)]
  while not all(part.exists() and part.read_bytes().count(b'\n') > 20 for part in parts):
    assert all(process.poll() is None for process in processes), processes[0].communicate()[0]
    time.sleep(0.01)
  for process in processes:
    process.kill()
    process.communicate()
  # Both go on from what both had.
  shutil.copytree(tmp_path / 'answers.jsonl.partial', tmp_path / 'kept')
  processes = on_two_hosts(arguments)
  printed = [process.communicate()[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], printed
  kept = [set(line.split()[0] for line in part.read_bytes().splitlines(keepends=True)
              if line.endswith(b'\n')) for part in (tmp_path / 'kept').glob('answers-*')]  # fmt: skip
  assert kept[0] and kept[1] and not kept[0] & kept[1]
  assert f'{sum(map(len, kept))} examples were answered before' in printed[0]
  assert 'examples' not in printed[1]
  check_same(answers(output), undisturbed)
  assert not (tmp_path / 'answers.jsonl.partial').exists()
