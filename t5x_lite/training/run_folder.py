"""The folder of a run, MODEL_DIR: it belongs to one run at a time, and is made again if it vanishes."""

import contextlib
import fcntl
import logging
import os
import pathlib
import socket
import weakref
from collections.abc import Callable, Mapping

from etils import epath

from t5x_lite import errors, remote


class RunFolder:
  """Holds a lock on MODEL_DIR/lock, which the operating system lets go of when the process dies.

  Who only reads (evaluation, inference, a server) does not ask for it. In a job of several hosts the
  first holds it for all.
  """

  def __init__(self, path: epath.Path, *, is_writer: bool):
    """Touches nothing yet.

    Args:
      path: the folder.
      is_writer: whether this process writes to it; all methods of others do nothing.
    """
    self.path = path
    # A bucket knows no locks, and does not vanish.
    self._is_held = is_writer and not remote.is_remote(path)
    self._is_writer = is_writer
    self._lock = None  # A file descriptor, and what closes it.
    self._close_lock = None
    self._fill = None
    self._is_new = False

  def lock(self):
    """Takes the lock if there is such a folder.

    Raises:
      UserError: another run has it, or nothing can be written there.
    """
    if self._is_held and self._lock is None and self.path.exists():
      try:
        self._take_lock()
      except OSError as error:
        raise self._unwritable(error) from error

  def make(self):
    """Makes the folder and takes the lock; raises as `lock` does."""
    if not self._is_held:
      return
    self._is_new = not self.path.exists()
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise self._unwritable(error) from error
    self.lock()

  def write(
    self, folder: pathlib.Path, texts: Mapping[str, str], save: Callable[[pathlib.Path], None]
  ):
    """Writes the small files that are the same for the whole run, now and if it is made again.

    Args:
      folder: where, see `remote.Mirror`.
      texts: what is in them, by name.
      save: writes others into a folder.
    """

    def fill():
      folder.mkdir(parents=True, exist_ok=True)
      for name, text in texts.items():
        (folder / name).write_text(text)
      save(folder)

    self._fill = fill
    if not self._is_writer:
      return
    try:
      fill()
    except OSError as error:
      raise self._unwritable(error) from error

  def make_again(self) -> list[str]:
    """Makes the folder again if it is not there any more: what is saved next needs nothing of it.

    Returns:
      What there is to say.

    Raises:
      UserError: another run is in its place.
    """
    if not self._is_held or self._is_ours():
      return []
    said = [
      f'MODEL_DIR={self.path} has vanished, and all that was in it; it is made again, and the run '
      'goes on'
    ]
    self.close()
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._take_lock()
      self._fill()
    except OSError as error:
      self.close()  # For another attempt.
      said.append(f'{self._unwritable(error)}; the run goes on, and the next save tries again')
    return said

  def close(self):
    """Lets go of the lock, and of a new folder that nothing was written into."""
    if self._lock is None:
      return
    if self._is_new and self._fill is None:
      with contextlib.suppress(OSError):
        if os.listdir(self.path) == [self._lock_path.name]:
          self._lock_path.unlink()
          os.rmdir(self.path)
    self._close_lock()
    self._lock = None

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  @property
  def _lock_path(self):
    return self.path / 'lock'

  def _is_ours(self):
    """Whether the lock that is held is that of the folder which is there."""
    try:
      return self._lock is not None and os.path.samestat(
        os.fstat(self._lock), os.stat(self._lock_path)
      )
    except OSError:
      return False

  def _take_lock(self):
    lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = os.read(lock, 1000).decode(errors='replace').strip()
      os.close(lock)
      raise errors.UserError(
        f'MODEL_DIR={self.path} is being trained in by another run ({holder or "starting just now"}): '
        'stop that one, or give another MODEL_DIR'
      ) from None
    except OSError as error:
      logging.warning('%s cannot be locked (%s): see to it that one run uses it', self.path, error)
    os.ftruncate(lock, 0)
    os.write(lock, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
    self._lock = lock
    # Also where an error ends the command before it comes to `close`.
    self._close_lock = weakref.finalize(self, os.close, lock)

  def _unwritable(self, error):
    return errors.UserError(
      f'MODEL_DIR={self.path} cannot be written to ({error}): see to its rights and its disk space, '
      'or give another one'
    )
