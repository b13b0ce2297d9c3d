"""Reads batches ahead in a background thread and puts them on the devices."""

import queue
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Before each state of the iterator: how many batches to skip after it.
_SKIP = struct.Struct('>Q')
# Seconds to wait for the thread at the end: a batch may never come.
_PATIENCE = 10


class Prefetcher:
  """Iterates over transferred batches, reading ahead, with the exact position of what it yielded.

  An iterator's `get_state` may be slow, and it tells how far the thread has read, not what the
  trainer has seen. So the thread takes a snapshot of it every `snapshot_period` batches, and a
  position is the last snapshot before the batch plus a number of batches to skip. Restoring reads
  and drops these.

  The thread starts with the first batch asked for. An exception of the iterator or of `transfer` is
  raised here, in the place of the batch it befell. The iterator belongs to the Prefetcher: nobody
  else may advance it.
  """

  def __init__(
    self,
    iterator: Iterator[Any],
    transfer: Callable[[Any], Any],
    *,
    depth: int = 2,
    snapshot_period: int = 100,
  ):
    """Starts nothing yet.

    Args:
      iterator: yields batches on the host. With `get_state`, which returns bytes by name, and
        `set_state`, which takes them, the Prefetcher can be saved and restored too.
      transfer: puts one batch on the devices; called in the background thread.
      depth: how many transferred batches wait at most; one more may be on its way.
      snapshot_period: batches between two snapshots of the iterator; the most a restored run reads
        in vain, less one.
    """
    if depth < 1 or snapshot_period < 1:
      raise ValueError(f'depth={depth} and snapshot_period={snapshot_period} must be at least 1')
    self._iterator = iterator
    self._transfer = transfer
    self._depth = depth
    self._snapshot_period = snapshot_period
    self._has_state = hasattr(iterator, 'get_state')
    self._position: tuple[Mapping[str, bytes], int] | None = None
    self._reader: _Reader | None = None
    self._failure: BaseException | None = None
    self._closed = False

  def __iter__(self):
    return self

  def __next__(self):
    if self._closed:
      raise ValueError('the Prefetcher is closed')
    if self._failure is not None:
      raise self._failure
    if self._reader is None:
      self._start()
    batch, position, failure = self._reader.get()
    if failure is not None:
      self._failure = failure
      raise failure
    self._position = position
    return batch

  def get_state(self) -> dict[str, bytes] | None:
    """The position after the batch yielded last, by the iterator's names; None if it keeps none."""
    if not self._has_state:
      return None
    if self._position is None:
      self._position = self._iterator.get_state(), 0
    snapshot, skip = self._position
    return {name: _SKIP.pack(skip) + state for name, state in snapshot.items()}

  def set_state(self, states: Mapping[str, bytes]):
    """Goes to a position: the batches that follow are those that would have followed there.

    Whatever was read ahead is dropped. Takes as long as reading up to `snapshot_period` batches.
    """
    self._stop(timeout=None)  # The iterator must be ours alone.
    # All were saved after the same batch, and their snapshots taken after the same one before.
    [(skip,)] = {_SKIP.unpack_from(state) for state in states.values()}
    self._iterator.set_state({name: state[_SKIP.size :] for name, state in states.items()})
    for _ in range(skip):
      next(self._iterator)
    self._position = None
    self._failure = None

  def close(self):
    """Stops the thread, once it has read the batch it is at. Nothing can be read afterwards."""
    self._stop(timeout=_PATIENCE)
    self._closed = True

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def _start(self):
    self.get_state()  # While the thread is not yet running: the position before any batch.
    self._reader = _Reader(
      self._iterator, self._transfer, self._depth, self._position, self._snapshot_period
    )
    # The thread does not refer to `self`: it ends with the Prefetcher, or, as finalizers run first
    # when the interpreter exits, before the modules that it uses are taken down.
    self._finalizer = weakref.finalize(self, self._reader.stop, _PATIENCE)

  def _stop(self, timeout):
    if self._reader is not None:
      self._finalizer.detach()
      self._reader.stop(timeout)
      self._reader = None


class _Reader:
  """The background thread with its queue of (batch, position, failure)."""

  def __init__(self, iterator, transfer, depth, position, snapshot_period):
    self._queue = queue.Queue(maxsize=depth)
    self._stopping = threading.Event()
    self._thread = threading.Thread(
      target=self._read,
      args=(iterator, transfer, position, snapshot_period),
      name='prefetch',
      daemon=True,
    )
    self._thread.start()

  def get(self):
    return self._queue.get()

  def stop(self, timeout):
    """Ends the thread, and waits for it: for `timeout` seconds, or without end if None."""
    self._stopping.set()
    while self._thread.is_alive():
      try:
        self._queue.get_nowait()  # Lets a waiting `put` go on, and the memory of the batch go.
      except queue.Empty:
        self._thread.join(timeout)
        return

  def _read(self, iterator, transfer, position, snapshot_period):
    try:
      while not self._stopping.is_set():
        if position is not None and position[1] >= snapshot_period:
          position = iterator.get_state(), 0
        batch = transfer(next(iterator))
        if position is not None:
          position = position[0], position[1] + 1
        self._queue.put((batch, position, None))
        del batch  # Not to be held while the next one is read.
    except BaseException as failure:  # StopIteration too: the consumer is to see them all.
      self._queue.put((None, None, failure))
