"""Events for TensorBoard, written where they are made.

tensorboardX's own writer has a thread and a queue of ten: when a full disk ends the thread, the
eleventh event waits for ever.
"""

import contextlib
import pathlib
import time
from collections.abc import Mapping

from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2

_FLUSH_SECONDS = 120


class EventFile:
  """A file of events in one folder; after a failure, or without the folder, the next begins another."""

  def __init__(self, folder, purge_step: int | None = None):
    """Opens nothing yet.

    Args:
      folder: where TensorBoard looks for it.
      purge_step: TensorBoard is told to forget events of this step and later ones; None for none.
    """
    self._folder = pathlib.Path(folder)
    self._purge_step = purge_step
    self._file = None
    self._flushed = 0.0

  def write(self, step: int, scalars: Mapping[str, float]):
    """Writes the values of one step; an OSError if that fails, and then these are lost."""
    values = [summary_pb2.Summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
    with self._abandoned_after_a_failure():
      self._write(step, summary=summary_pb2.Summary(value=values))
    if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
      self.flush()

  def flush(self):
    """Hands what was written to the operating system."""
    self._flushed = time.monotonic()
    with self._abandoned_after_a_failure():
      if self._file is not None:
        self._file.flush()

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()

  @contextlib.contextmanager
  def _abandoned_after_a_failure(self):
    try:
      yield
    except OSError:
      self._abandon()  # It may end in half an event.
      raise

  def _abandon(self):
    with contextlib.suppress(OSError):
      self.close()
    self._file = None

  def _write(self, step, **content):
    if not self._folder.is_dir():
      self._abandon()
    if self._file is None:
      self._folder.mkdir(parents=True, exist_ok=True)
      # Two that begin in the same second need two names.
      suffix = f'.{time.time_ns()}'
      self._file = event_file_writer.EventsWriter(str(self._folder / 'events'), suffix)
      if self._purge_step is not None:
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(self._purge_step, session_log=start)
        self._purge_step = None
    event = event_pb2.Event(wall_time=time.time(), step=step, **content)
    self._file.write_event(event)
