"""Training in processes that are hosts of one job, through launch/local_multiprocess.sh."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(__file__).with_name('bare_training.py')
STEPS = 12


class Hosts:
  """A training run in several processes."""

  def __init__(self, number, model_dir, *arguments, devices=1):
    self.model_dir = model_dir
    environment = {
      'T5X_LITE': f'{sys.executable} {PROGRAM}',
      'PYTHONPATH': str(ROOT / 'tests'),
      'DEVICES': str(devices),
      'LOGS': f'{model_dir}-logs',
      'RESTARTS': '1',
      'HOST_TIMEOUT': '30',
    }
    self.process = subprocess.Popen(
      ['bash', str(ROOT / 'launch' / 'local_multiprocess.sh'), str(number), 'train']
      + [f'--model_dir={model_dir}', f'--steps={STEPS}', '--checkpoint_period=2', *arguments],
      env=os.environ | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def send(self, host, number):
    """Sends a signal to one of the processes."""
    for each in psutil.Process(self.process.pid).children():
      if f'--process_id={host}' in each.cmdline():
        each.send_signal(number)

  def wait_for_step(self, step):
    while step not in losses(self.model_dir):
      assert self.process.poll() is None, self.process.communicate()[0]
      time.sleep(0.02)

  def finish(self, status=0):
    """Returns what was printed, once all is over."""
    printed = self.process.communicate(timeout=300)[0]
    assert self.process.returncode == status, printed
    return printed


def losses(model_dir):
  return {line['step']: line['loss'] for line in lines(model_dir, 'train')}


def lines(model_dir, kind):
  path = model_dir / 'metrics' / f'{kind}.jsonl'
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith('\n')]


def from_step(step, run, folder):
  """Returns a folder in which a run goes on from a checkpoint of another."""
  (folder / 'checkpoints').mkdir(parents=True)
  shutil.copytree(run / 'checkpoints' / str(step), folder / 'checkpoints' / str(step))
  return folder


@pytest.fixture(scope='module')
def four(tmp_path_factory):
  """Folder of a run of four hosts."""
  folder = tmp_path_factory.mktemp('four') / 'run'
  printed = Hosts(4, folder).finish()
  assert printed.count(f'done at step {STEPS}') == 1  # One host tells.
  return folder


def assert_alike(run, expected):
  """Compares the losses of training, and losses and answers in evaluation, at the steps that a run has."""
  known = losses(expected)
  for step, loss in losses(run).items():
    assert loss == pytest.approx(known[step], rel=1e-6), step
  known = {line['step']: line for line in lines(expected, 'eval')}
  for line in lines(run, 'eval'):
    for name in line.keys() - {'time'}:
      value, other = line[name], known[line['step']][name]
      same = other if isinstance(other, str) else pytest.approx(other, rel=1e-6, abs=1e-9)
      assert value == same, (name, line['step'])


@pytest.mark.slow
def test_four_hosts_train_evaluate_and_answer_as_one_does(four, tmp_path):
  one = tmp_path / 'one'
  Hosts(1, one, '--streams', *(f'{stream}-of-4' for stream in range(4))).finish()
  assert sorted(losses(one)) == list(range(1, STEPS + 1))
  evaluated = lines(one, 'eval')
  assert [line['step'] for line in evaluated] == list(range(0, STEPS + 1, 2))
  answers = {
    tuple(line[f'answer/token/{row}/{place}'] for place in range(6))
    for row in range(3)
    for line in evaluated
  }
  assert len(answers) > 3
  assert_alike(one, four)


@pytest.mark.slow
def test_a_run_of_four_goes_on_with_two_that_die_and_are_stopped_and_then_with_one(four, tmp_path):
  assert sorted(losses(four)) == list(range(1, STEPS + 1))
  saved = {path.name for path in (four / 'checkpoints' / '2' / 'run').glob('batches_state-*')}
  assert saved == {f'batches_state-{stream}-of-4' for stream in range(4)}

  # The batch over the network between two hosts, the matrices over the devices of each.
  two = from_step(2, four, tmp_path / 'two')
  mesh = json.dumps({'ici': [1, 1, 2], 'dcn': [2, 1, 1]})
  hosts = Hosts(2, two, f'--mesh={mesh}', '--seconds_per_step=0.5', devices=2)
  hosts.wait_for_step(5)
  hosts.send(0, signal.SIGKILL)  # The one that the others, and jax, depend on.
  hosts.wait_for_step(7)
  hosts.send(1, signal.SIGTERM)
  printed = hosts.finish(75)
  assert re.search(r't5x-lite: error: host 0 \(\S+\) has died', printed)
  assert 'starting all hosts again, restart 1 of at most 1' in printed
  stopped_at = int(re.search(r'terminated at step (\d+)', printed)[1])
  assert stopped_at in losses(two) and (two / 'checkpoints' / str(stopped_at)).is_dir()

  Hosts(1, two).finish()
  assert sorted(losses(two)) == list(range(3, STEPS + 1))
  assert {4, STEPS} <= {line['step'] for line in lines(two, 'eval')}
  assert_alike(two, four)
