"""Reading ahead changes when batches are read, never which ones are seen."""

import gc
import itertools
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from t5x_lite.training import prefetch


class Numbers:
  """A checkpointable iterator over start, start + 1, ..., that counts what it was asked."""

  def __init__(self, stop=None):
    self.next = 0
    self.stop = stop
    self.snapshots = 0

  def __iter__(self):
    return self

  def __next__(self):
    if self.stop is not None and self.next >= self.stop:
      raise StopIteration
    self.next += 1
    return self.next - 1

  def get_state(self):
    self.snapshots += 1
    return {'numbers': str(self.next).encode()}

  def set_state(self, state):
    self.next = int(state['numbers'])


def _double(batch):
  return 2 * batch


def _prefetcher(iterator=None, **kwargs):
  return prefetch.Prefetcher(iterator or Numbers(), _double, **kwargs)


def _take(iterator, count):
  return list(itertools.islice(iterator, count))


def _wait_until(condition):
  deadline = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.001)


def test_batches_come_transferred_and_in_order():
  with _prefetcher() as batches:
    assert _take(batches, 5) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize('depth', [1, 3])
def test_the_thread_reads_ahead_no_further_than_told(depth):
  numbers = Numbers()
  with _prefetcher(numbers, depth=depth) as batches:
    assert next(batches) == 0
    _wait_until(lambda: numbers.next == depth + 2)  # The queue, one on its way, one yielded.
    time.sleep(0.05)
    assert numbers.next == depth + 2


@pytest.mark.parametrize('snapshot_period', [1, 3, 100])
@pytest.mark.parametrize('depth', [1, 2, 7])
def test_a_position_is_exact_at_any_point_whatever_was_read_ahead(depth, snapshot_period):
  with _prefetcher(depth=depth, snapshot_period=snapshot_period) as batches:
    positions = [batches.get_state()]
    for _ in range(10):
      next(batches)
      positions.append(batches.get_state())
  for seen, position in enumerate(positions):
    with _prefetcher(depth=depth, snapshot_period=snapshot_period) as resumed:
      resumed.set_state(position)
      assert _take(resumed, 5) == [2 * (seen + i) for i in range(5)]


def test_a_position_survives_being_restored_again_and_again():
  position = None
  for start in range(0, 50, 5):
    with _prefetcher(snapshot_period=7) as batches:
      if position is not None:
        batches.set_state(position)
      assert _take(batches, 5) == [2 * (start + i) for i in range(5)]
      position = batches.get_state()


def test_a_running_prefetcher_can_be_sent_back():
  with _prefetcher(snapshot_period=4) as batches:
    _take(batches, 6)
    position = batches.get_state()
    expected = _take(batches, 6)
    batches.set_state(position)
    assert _take(batches, 6) == expected


def test_snapshots_are_taken_once_in_a_period_only():
  numbers = Numbers()
  with _prefetcher(numbers, snapshot_period=10) as batches:
    for _ in range(100):
      next(batches)
      batches.get_state()
    assert 10 <= numbers.snapshots <= 12


def test_iterators_without_a_position_are_read_too():
  with prefetch.Prefetcher(itertools.count(), _double) as batches:
    assert _take(batches, 3) == [0, 2, 4]
    assert batches.get_state() is None


def test_the_end_comes_after_the_last_batch():
  with _prefetcher(Numbers(stop=3)) as batches:
    assert list(batches) == [0, 2, 4]
    assert list(batches) == []


def test_the_position_at_the_end_is_the_end():
  with _prefetcher(Numbers(stop=3)) as batches:
    list(batches)
    position = batches.get_state()
    batches.set_state(position)
    assert list(batches) == []


def test_a_failing_iterator_raises_in_the_place_of_its_batch():
  def failing():
    yield 0
    yield 1
    raise RuntimeError('line 3 does not parse')

  batches = prefetch.Prefetcher(failing(), _double, depth=5)
  assert _take(batches, 2) == [0, 2]
  for _ in range(2):  # Again and again: a caller that goes on must not wait for ever.
    with pytest.raises(RuntimeError, match='line 3 does not parse'):
      next(batches)


def test_a_failing_transfer_raises_too():
  def transfer(batch):
    raise ValueError('out of memory')

  with pytest.raises(ValueError, match='out of memory'):
    next(prefetch.Prefetcher(Numbers(), transfer))


def test_work_goes_on_after_a_failure_from_a_position_before_it():
  numbers = Numbers(stop=2)
  with _prefetcher(numbers) as batches:
    next(batches)
    position = batches.get_state()
    assert list(batches) == [2]
    numbers.stop = 4
    batches.set_state(position)
    assert list(batches) == [2, 4, 6]


def _reading():
  return [thread for thread in threading.enumerate() if thread.name == 'prefetch']


def test_close_ends_the_thread_even_with_a_full_queue():
  batches = _prefetcher()
  next(batches)
  assert _reading()
  batches.close()
  batches.close()
  assert not _reading()
  with pytest.raises(ValueError, match='closed'):
    next(batches)


def test_the_thread_ends_with_a_forgotten_prefetcher():
  batches = _prefetcher()
  next(batches)
  assert _reading()
  del batches
  gc.collect()
  assert not _reading()


def test_bad_depths_are_refused():
  with pytest.raises(ValueError):
    _prefetcher(depth=0)
  with pytest.raises(ValueError):
    _prefetcher(snapshot_period=0)


@pytest.mark.parametrize('ending', ['', 'raise SystemExit(3)', 'raise KeyError'])
def test_the_interpreter_exits_while_the_thread_is_busy(ending):
  script = f"""
    import itertools, numpy as np, jax
    from t5x_lite.training import prefetch
    batches = ({{'tokens': np.full((64, 64), i)}} for i in itertools.count())
    prefetcher = prefetch.Prefetcher(batches, jax.device_put)
    next(prefetcher)
    {ending}
  """
  result = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(script)], timeout=60, capture_output=True, text=True
  )
  assert result.returncode == {'': 0, 'raise SystemExit(3)': 3, 'raise KeyError': 1}[ending]
  assert 'Fatal' not in result.stderr and ('Error' in result.stderr) == ('KeyError' in ending)
