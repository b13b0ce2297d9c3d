"""Tells when a run has stood still for long, and where: the stacks of all its threads."""

import contextlib
import faulthandler
import pathlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from t5x_lite.monitoring import progress


class Watchdog:
  """A thread that expects a sign of life every so many seconds.

  After a longer silence the stacks of all threads go to standard error and to MODEL_DIR/stalls.txt,
  once for each silence. The run is left to itself: what it waits for may still come.
  """

  def __init__(self, seconds: float | None, model_dir, say: Callable[[str], None]):
    """Starts the thread.

    Args:
      seconds: the longest silence; None for no watchdog.
      model_dir: the run's folder.
      say: takes one line.
    """
    self._seconds = seconds
    self._path = pathlib.Path(model_dir) / 'stalls.txt'
    self._say = say
    self._last = time.monotonic()
    self._suspensions = 0
    self._closing = threading.Event()
    self._thread = None
    if seconds is not None:
      self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)
      self._thread.start()

  def beat(self):
    """Gives a sign of life."""
    self._last = time.monotonic()

  @contextlib.contextmanager
  def suspended(self):
    """Expects none inside: nobody knows how long a compilation takes."""
    self._suspensions += 1
    try:
      yield
    finally:
      self.beat()
      self._suspensions -= 1

  def close(self):
    """Ends the thread."""
    self._closing.set()
    if self._thread is not None:
      self._thread.join()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def _watch(self):
    told = None  # The last sign of life before a silence that was told of.
    while not self._closing.wait(min(self._seconds / 4, 10)):
      last = self._last
      if told is not None and last != told:
        self._say(f'the run goes on after {progress.duration(last - told)} of standing still')
        told = None
      silence = time.monotonic() - last
      if told is None and not self._suspensions and silence >= self._seconds:
        told = last
        self._tell(silence)

  def _tell(self, silence):
    # Not first into MODEL_DIR: its file system may be what does not answer.
    with tempfile.TemporaryFile('w+', encoding='utf-8') as file:
      faulthandler.dump_traceback(file, all_threads=True)
      file.seek(0)
      stacks = file.read()
    self._say(
      f'no progress for {progress.duration(silence)} (STALL_SECONDS={self._seconds}); the run goes on '
      f'waiting. What its threads are at is below, and in {self._path}'
    )
    print(stacks, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), open(self._path, 'a', encoding='utf-8') as file:
      file.write(
        f'{time.strftime("%Y-%m-%d %H:%M:%S")}: no progress for {silence:.0f} s\n{stacks}\n'
      )
