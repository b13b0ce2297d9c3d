"""A function in a process of its own, which ends as soon as there is a result, whatever still goes on in it."""

import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from t5x_lite import errors


def call(function: Callable[[], Any]) -> Any:
  """Returns what a function returns, called in a copy of this process.

  The function may use jax, but this process may not have used it yet but for its abstract values, since threads are
  not copied.

  Raises:
    UserError: the function does.
    RuntimeError: it has failed otherwise, and has said why.
  """
  sys.stdout.flush()
  reader, writer = multiprocessing.Pipe(duplex=False)
  with warnings.catch_warnings():
    # That of threads, of which none is waited for.
    warnings.simplefilter('ignore')
    process = os.fork()
  if not process:
    _answer(function, writer)
  writer.close()
  try:
    result, error = reader.recv()
  except EOFError:
    raise RuntimeError('the process that compiles has ended') from None
  finally:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
  if error is not None:
    raise error
  return result


def _answer(function, writer):
  """Sends (what a function returns, the `UserError` that it raises) and ends this process."""
  try:
    try:
      writer.send((function(), None))
    except errors.UserError as error:
      writer.send((None, error))
    sys.stdout.flush()
  except Exception:
    traceback.print_exc()
  finally:
    os._exit(0)
