"""The Python modules in which users define what is theirs: tasks, optimizers, schedules."""

import contextlib
import importlib
import os
import pathlib
import sys

from t5x_lite import errors


def import_all(names):
  """Imports the modules, or Python files, that the user named, in order.

  Args:
    names: 'my.tasks' each, found in the working directory too, or 'path/my_tasks.py'.

  Raises:
    errors.UserError: one of them, or what it imports, is not there or does not compile.
  """
  if names:
    with contextlib.suppress(ImportError):  # Where there is no TensorFlow, nothing is to be done.
      # They mostly begin with `import seqio`; TensorFlow must be kept quiet and off the GPU first.
      importlib.import_module('t5x_lite.data')
  if '' not in sys.path and os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())  # A console script has the script's folder there instead.
  for name in names:
    path = pathlib.Path(name).expanduser()
    if path.suffix == '.py':
      if not path.is_file():
        raise errors.UserError(f'--module={name}: there is no such file')
      sys.path.insert(0, str(path.parent.absolute()))
      name = path.stem
    try:
      importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
      raise errors.UserError(
        f'--module={name}: {error}; modules are searched for in {os.getcwd()} and on PYTHONPATH'
      ) from error


def absolute(names):
  """Returns the names as they are found from any working directory."""
  return tuple(
    str(pathlib.Path(name).expanduser().absolute()) if name.endswith('.py') else name
    for name in names
  )
