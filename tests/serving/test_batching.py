"""The queue and its batches, without a model and without HTTP."""

import concurrent.futures
import contextlib
import threading
import time

import pytest

from t5x_lite.serving import batching


class Worker:
  """A thread that works on batches, each of which waits for `gate`, and keeps what was in them."""

  def __init__(self, batcher):
    self.batches = []
    self.gate = threading.Event()
    self.gate.set()
    self.started = threading.Semaphore(0)
    self._thread = threading.Thread(target=batcher.work, args=(self._do,))
    self._thread.start()

  def _do(self, key, items):
    self.batches.append((key, list(items)))
    self.started.release()
    self.gate.wait()
    if 'bad' in items:
      raise ValueError('a bad item')
    return [f'{key}:{item}' for item in items]

  def block(self, batcher):
    """Has the thread begin a batch that does not end before the gate opens."""
    self.gate.clear()
    future = batcher.submit('block', ['0'])
    assert self.started.acquire(timeout=10)
    self.batches.clear()
    return future

  def join(self):
    self._thread.join(timeout=10)
    assert not self._thread.is_alive()


@contextlib.contextmanager
def working(batch_size=4, batch_wait=0.0, max_queue=20, **options):
  batcher = batching.Batcher(
    batch_size=batch_size, batch_wait=batch_wait, max_queue=max_queue, **options
  )
  worker = Worker(batcher)
  yield batcher, worker
  batcher.close()
  worker.gate.set()
  worker.join()


def results(futures):
  return [future.result(timeout=10) for future in futures]


def test_jobs_of_one_key_share_batches_and_get_their_own_results():
  with working() as (batcher, worker):
    worker.block(batcher)
    futures = [batcher.submit('a', [str(i)]) for i in range(6)]
    assert batcher.waiting() == 6
    worker.gate.set()
    assert results(futures) == [[f'a:{i}'] for i in range(6)]
    assert worker.batches == [('a', ['0', '1', '2', '3']), ('a', ['4', '5'])]
    assert batcher.waiting() == 0


def test_a_large_job_spans_batches_and_small_ones_fill_up_its_last():
  with working() as (batcher, worker):
    worker.block(batcher)
    large, small = batcher.submit('a', list('012345')), batcher.submit('a', ['x'])
    worker.gate.set()
    assert large.result(timeout=10) == [f'a:{i}' for i in '012345']
    assert small.result(timeout=10) == ['a:x']
    assert worker.batches == [('a', list('0123')), ('a', ['4', '5', 'x'])]


def test_the_oldest_job_decides_what_comes_next():
  with working() as (batcher, worker):
    worker.block(batcher)
    jobs = [('a', list('12')), ('b', list('3')), ('a', list('456')), ('b', list('7')), ('c', ['8'])]
    futures = [batcher.submit(*job) for job in jobs]
    worker.gate.set()
    assert results(futures)[2] == ['a:4', 'a:5', 'a:6']
    # The last of 'a' was there before 'b' came to its turn, and its first items before that of 'c'.
    assert worker.batches == [
      ('a', list('1245')), ('b', list('37')), ('a', ['6']), ('c', ['8'])
    ]  # fmt: skip


def test_a_job_waits_for_others_unless_its_batch_is_full():
  with working(batch_size=2, batch_wait=0.3) as (batcher, worker):
    start = time.monotonic()
    futures = [batcher.submit('a', ['0']), batcher.submit('a', ['1'])]
    results(futures)
    assert time.monotonic() - start < 0.25
    start = time.monotonic()
    batcher.submit('a', ['2']).result(timeout=10)
    assert time.monotonic() - start >= 0.3
    assert [items for _, items in worker.batches] == [['0', '1'], ['2']]


def test_the_queue_is_bounded_and_takes_more_when_there_is_room():
  with working(batch_size=2, max_queue=3) as (batcher, worker):
    worker.block(batcher)
    futures = [batcher.submit('a', list('01'))]
    with pytest.raises(batching.QueueFull):
      batcher.submit('a', list('23'))
    futures.append(batcher.submit('a', ['2']))
    with pytest.raises(batching.QueueFull):
      batcher.submit('b', ['3'])
    worker.gate.set()
    assert results(futures) == [['a:0', 'a:1'], ['a:2']]
    assert batcher.submit('a', list('345')).result(timeout=10) == ['a:3', 'a:4', 'a:5']


def test_what_is_cancelled_is_not_computed_and_makes_room():
  with working(max_queue=2) as (batcher, worker):
    worker.block(batcher)
    first, second = batcher.submit('a', ['0']), batcher.submit('a', ['1'])
    assert first.cancel()
    assert batcher.waiting() == 1
    third = batcher.submit('a', ['2'])
    worker.gate.set()
    assert results([second, third]) == [['a:1'], ['a:2']]
    assert worker.batches == [('a', ['1', '2'])]


def test_the_rest_of_a_job_that_is_cancelled_half_way_is_dropped():
  with working(batch_size=2) as (batcher, worker):
    worker.block(batcher)
    future = batcher.submit('a', list('0123'))
    worker.gate.set()
    worker.gate.clear()  # Until the next batch, of its first two items.
    blocked = worker.started.acquire(timeout=10)
    assert blocked and future.cancel()
    worker.gate.set()
    assert batcher.submit('b', ['4']).result(timeout=10) == ['b:4']
    assert worker.batches == [('a', ['0', '1']), ('b', ['4'])]


def test_a_failure_is_that_of_its_batch_alone_and_the_work_goes_on():
  with working() as (batcher, worker):
    worker.block(batcher)
    good = batcher.submit('a', ['0'])
    bad = [batcher.submit('b', [*'123', 'bad', *'4567']), batcher.submit('c', ['1'])]
    worker.gate.set()
    assert good.result(timeout=10) == ['a:0']
    with pytest.raises(ValueError, match='a bad item'):
      bad[0].result(timeout=10)
    assert bad[1].result(timeout=10) == ['c:1']
    assert ('b', list('4567')) not in worker.batches


def test_closing_refuses_what_waits_and_what_comes():
  with working() as (batcher, worker):
    blocked = worker.block(batcher)
    waiting = batcher.submit('a', ['0'])
    batcher.close()
    for future in (blocked, waiting):
      with pytest.raises(batching.Closed):
        future.result(timeout=10)
    with pytest.raises(batching.Closed):
      batcher.submit('a', ['1'])
    worker.gate.set()  # What was begun ends without harm.
    worker.join()
    assert worker.batches == []


def test_batches_are_told_with_the_waits_of_those_that_began():
  told = []
  with working(batch_size=2, observe=told.append) as (batcher, worker):
    worker.block(batcher)
    future = batcher.submit('a', list('012'))
    time.sleep(0.05)
    worker.gate.set()
    future.result(timeout=10)
  assert [batch.size for batch in told] == [1, 2, 1]
  assert [len(batch.waits) for batch in told] == [1, 1, 0]
  assert told[1].waits[0] >= 0.05 and told[0].seconds >= 0.05


def test_many_threads_get_what_they_asked_for():
  with working(batch_size=8, batch_wait=0.001, max_queue=1000) as (batcher, worker):

    def ask(i):
      items = [f'{i}.{k}' for k in range(i % 5 + 1)]
      return batcher.submit(i % 3, items).result(timeout=10) == [f'{i % 3}:{x}' for x in items]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      assert all(pool.map(ask, range(200)))
    assert len(worker.batches) < 200
    assert max(len(items) for _, items in worker.batches) == 8
