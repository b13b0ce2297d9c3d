"""Dynamic batching: a bounded queue of jobs, and the one thread that works on them.

The items of jobs with the same key share batches. The oldest job decides what comes next; those
after it fill its batch up, and all others wait for their turn, so that none waits for ever.
"""

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any


class QueueFull(Exception):
  """There are too many items in the queue already."""


class Closed(Exception):
  """The batcher takes nothing any more, or gave up what it had not done."""


@dataclasses.dataclass(frozen=True)
class Batch:
  """What was done at once.

  Attributes:
    size: its items.
    waits: for each job that began with it, the seconds from `submit` to here.
    seconds: that it took.
  """

  size: int
  waits: Sequence[float]
  seconds: float


@dataclasses.dataclass(eq=False)
class _Job:
  """Items that wait, and the results of those that are done.

  Attributes:
    key: jobs of the same one share batches.
    items: what is to be done.
    arrived: when, in seconds of the monotonic clock.
    future: gets the results.
    taken: items that are done or being done.
    results: of the first items.
  """

  key: Hashable
  items: Sequence[Any]
  arrived: float
  future: concurrent.futures.Future
  taken: int = 0
  results: list = dataclasses.field(default_factory=list)

  def settle(self, *, error=None):
    """Gives the future the results, or an error, unless it was cancelled or refused meanwhile."""
    try:
      if error is None:
        self.future.set_result(self.results)
      else:
        self.future.set_exception(error)
    except concurrent.futures.InvalidStateError:
      pass


class Batcher:
  """The queue; `work` is what its thread runs.

  Cancelling a job's future takes out of the queue what has not begun.
  """

  def __init__(
    self,
    *,
    batch_size: int,
    batch_wait: float,
    max_queue: int,
    observe: Callable[[Batch], None] = lambda batch: None,
  ):
    """Begins without anything.

    Args:
      batch_size: the most items done at once.
      batch_wait: seconds that a job waits for others, where its batch is not full.
      max_queue: the most items that wait.
      observe: is told of each batch.
    """
    self._batch_size = batch_size
    self._batch_wait = batch_wait
    self._max_queue = max_queue
    self._observe = observe
    self._changed = threading.Condition()
    self._queue = collections.deque()  # Jobs with items that were not taken, the oldest first.
    self._running = ()  # Those in the present batch.
    self._closed = False

  def waiting(self) -> int:
    """Returns the number of items in the queue."""
    with self._changed:
      return self._count()

  def _count(self):
    return sum(len(job.items) - job.taken for job in self._queue)

  def submit(self, key: Hashable, items: Sequence[Any]) -> concurrent.futures.Future:
    """Adds a job of one item or more.

    Returns:
      The future of its results, a list in the order of the items.

    Raises:
      QueueFull: too many items wait.
      Closed: nothing is taken any more.
    """
    job = _Job(key, items, time.monotonic(), concurrent.futures.Future())
    with self._changed:
      if self._closed:
        raise Closed
      if self._count() + len(items) > self._max_queue:
        raise QueueFull
      self._queue.append(job)
      self._changed.notify()
    job.future.add_done_callback(lambda future: future.cancelled() and self._drop(job))
    return job.future

  def _drop(self, job):
    with self._changed:
      if job in self._queue:
        self._queue.remove(job)
        self._changed.notify()

  def work(self, do: Callable[[Hashable, Sequence[Any]], Sequence[Any]]):
    """Does what is in the queue, batch by batch, until `close`.

    Args:
      do: function of a key and some items of its jobs, which returns a result for each. What it raises becomes that of
        the jobs, and the work goes on.
    """
    while parts := self._next():
      start = time.monotonic()
      items = [item for _, some in parts for item in some]
      try:
        results = iter(do(parts[0][0].key, items))
      except Exception as error:
        for job, _ in parts:
          self._drop(job)
          job.settle(error=error)
      else:
        for job, some in parts:
          job.results += [next(results) for _ in some]
          if len(job.results) == len(job.items):
            job.settle()
      waits = [start - job.arrived for job, some in parts if job.taken == len(some)]
      self._observe(Batch(len(items), waits, time.monotonic() - start))

  def _next(self):
    """Waits for a batch and takes it; returns its jobs, each with the items of it, or nothing when closed."""
    with self._changed:
      self._running = ()
      while not self._closed:
        if not self._queue:
          self._changed.wait()
          continue
        oldest = self._queue[0]
        alike = [job for job in self._queue if job.key == oldest.key]
        size = sum(len(job.items) - job.taken for job in alike)
        left = oldest.arrived + self._batch_wait - time.monotonic()
        if size >= self._batch_size or left <= 0:
          return self._take(alike)
        self._changed.wait(left)
    return None

  def _take(self, jobs):
    parts, room = [], self._batch_size
    for job in jobs:
      if not room:
        break
      some = job.items[job.taken : job.taken + room]
      job.taken += len(some)
      room -= len(some)
      parts.append((job, some))
      if job.taken == len(job.items):
        self._queue.remove(job)
    self._running = tuple(job for job, _ in parts)
    return parts

  def close(self):
    """Ends `work` after the present batch; jobs that are not done by now get `Closed`."""
    with self._changed:
      self._closed = True
      undone = {*self._queue, *self._running}
      self._queue.clear()
      self._changed.notify_all()
    for job in undone:
      job.settle(error=Closed())
