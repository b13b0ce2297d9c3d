"""A run that stands still tells where, once, and goes on."""

import contextlib
import threading
import time

from t5x_lite.monitoring import watchdog


@contextlib.contextmanager
def watching(tmp_path, seconds=0.2):
  said = []
  with watchdog.Watchdog(seconds, tmp_path, said.append) as dog:
    yield dog, said


def wait_until(condition):
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_the_stacks_of_all_threads_are_told_once_for_each_silence(tmp_path, capsys):
  release = threading.Event()

  def a_thread_that_waits():
    release.wait()

  other = threading.Thread(target=a_thread_that_waits)
  other.start()
  with watching(tmp_path) as (dog, said):
    wait_until(lambda: (tmp_path / 'stalls.txt').exists())
    time.sleep(0.5)
    assert len(said) == 1 and '(STALL_SECONDS=0.2)' in said[0]
    dog.beat()
    wait_until(lambda: len(said) >= 2)
    assert 'the run goes on after' in said[1]
    wait_until(lambda: len(said) >= 3)
    assert 'no progress for' in said[2]
  release.set()
  other.join()
  for told in (capsys.readouterr().err, (tmp_path / 'stalls.txt').read_text()):
    assert 'a_thread_that_waits' in told
    assert 'test_the_stacks_of_all_threads_are_told_once_for_each_silence' in told


def test_signs_of_life_and_suspensions_keep_it_quiet(tmp_path):
  with watching(tmp_path, seconds=1.0) as (dog, said):
    for _ in range(15):
      time.sleep(0.1)
      dog.beat()
    with dog.suspended():
      time.sleep(1.5)
  assert said == [] and not (tmp_path / 'stalls.txt').exists()


def test_there_need_be_none(tmp_path):
  before = threading.active_count()
  with watching(tmp_path, seconds=None) as (dog, _):
    dog.beat()
    assert threading.active_count() == before
