"""New folders, which appear complete or not at all."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from t5x_lite import errors


@contextlib.contextmanager
def new(folder) -> Iterator[pathlib.Path]:
  """Gives a folder to fill, which becomes `folder` where no exception comes in between.

  Args:
    folder: must not exist, or be empty; those above it are made.

  Raises:
    UserError: there is something in the folder, or it cannot be written.
  """
  folder = pathlib.Path(folder).expanduser().absolute()
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise errors.UserError(f'{folder} is there already: remove it, or name another folder')
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
  except OSError as error:
    raise errors.UserError(f'cannot write {folder}: {error.strerror}') from error
  try:
    yield unfinished
    unfinished.chmod(0o755)  # It was made for nobody else to read.
    unfinished.rename(folder)
  except OSError as error:
    raise errors.UserError(f'cannot write {folder}: {error}') from error
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
