"""The parts of a run's time, which add up to all of it, over restarts too."""

import json

import pytest

from t5x_lite.monitoring import goodput


class Clock:
  now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def seconds(model_dir):
  content = json.loads((model_dir / 'metrics' / 'goodput.json').read_text())
  return {part: value for part, value in content['seconds'].items() if value}


def run(tmp_path, clock, first_step, last_step, **settings):
  """A process: 5 s until it begins, 3 s of compilation, then steps of 2 s, half a second each for data."""
  (tmp_path / 'metrics').mkdir(exist_ok=True)
  started = clock.now
  clock.now += 5
  account = goodput.Goodput(tmp_path, first_step, started=started, clock=clock, **settings)
  account.begin_steps()
  with account.during('compile'):
    clock.now += 3
  for step in range(first_step + 1, last_step + 1):
    with account.during('data_wait'):
      clock.now += 0.5
    clock.now += 1.5
    account.stepped(step)
    with open(tmp_path / 'metrics' / 'train.jsonl', 'a') as file:
      file.write(json.dumps({'step': step}) + '\n')
  return account


def test_the_parts_of_one_process_add_up_to_its_time(tmp_path, clock):
  account = run(tmp_path, clock, 0, 10)
  with account.during('checkpoint'):
    clock.now += 4
  with account.during('data_wait') as wait:
    clock.now += 1
    wait.part = 'step'  # The devices were busy meanwhile.
  account.write(finished=True)
  assert seconds(tmp_path) == {
    'start_up': 5, 'compile': 3, 'data_wait': 5, 'step': 16, 'checkpoint': 4,
  }  # fmt: skip
  assert clock.now == 1000 + 33
  assert account.summary().startswith('goodput 48.5% of 33s: start up 15.2%, compile 9.1%')


def test_after_a_kill_all_until_the_first_new_step_is_the_restart(tmp_path, clock):
  account = run(tmp_path, clock, 0, 10)
  account.write()
  del account  # Killed now, but the last checkpoint was that of step 7.
  clock.now += 60
  account = run(tmp_path, clock, 7, 14)
  account.write(finished=True)
  assert seconds(tmp_path) == {
    'start_up': 5, 'compile': 3, 'data_wait': 5 + 1.5, 'step': 15 + 4.5,
    # Nobody was there, then imports and compilation, three repeated steps and one new one.
    'restart': 60 + 5 + 3 + 4 * 2,
  }  # fmt: skip
  assert sum(seconds(tmp_path).values()) == clock.now - 1000
  assert account.summary().endswith('(restarts 1, repeated steps 3)')


def test_what_a_process_did_after_its_last_sign_of_life_is_part_of_the_restart(tmp_path, clock):
  run(tmp_path, clock, 0, 10, seconds_between_writes=10)  # It writes after the steps 5 and 10.
  clock.now += 1
  run(tmp_path, clock, 10, 11).write()
  assert sum(seconds(tmp_path).values()) == clock.now - 1000


def test_the_time_between_the_end_of_a_run_and_its_continuation_is_nobodys(tmp_path, clock):
  run(tmp_path, clock, 0, 1).write(finished=True)
  clock.now += 10_000
  account = run(tmp_path, clock, 1, 2)
  account.write(finished=True)
  assert seconds(tmp_path) == {'start_up': 10, 'compile': 6, 'data_wait': 1, 'step': 3}
  assert 'restart' not in account.summary()


@pytest.mark.parametrize('content', [None, '', '{"seconds"'])
def test_a_run_without_an_account_begins_one(tmp_path, clock, content):
  if content is not None:
    (tmp_path / 'metrics').mkdir()
    (tmp_path / 'metrics' / 'goodput.json').write_text(content)
  run(tmp_path, clock, 100, 101).write()
  assert seconds(tmp_path) == {'start_up': 5, 'compile': 3, 'data_wait': 0.5, 'step': 1.5}


def test_an_account_that_cannot_be_written_stops_nothing(tmp_path, clock):
  account = run(tmp_path, clock, 0, 3)
  (tmp_path / 'metrics').rename(tmp_path / 'elsewhere')
  (tmp_path / 'metrics').write_text('')
  account.write()
