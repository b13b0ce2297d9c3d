"""Files that are written whole."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def atomic_file(path, mode='w'):
  """Opens a file that appears under its name when it is complete, or not at all.

  What is there and no file, such as /dev/null or a named pipe, is written to as it is.

  Args:
    path: the file; its folder is made.
    mode: 'w' for text in UTF-8, 'wb' for bytes.
  """
  encoding = 'utf-8' if mode == 'w' else None
  path = pathlib.Path(path)
  if path.exists() and not path.is_file():
    with open(path, mode, encoding=encoding) as file:
      yield file
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  new_path = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(new_path, mode, encoding=encoding) as file:
      yield file
    os.replace(new_path, path)
  except BaseException:
    new_path.unlink(missing_ok=True)
    raise
