"""The seqio boundary: nothing else but what writes a SavedModel imports TensorFlow."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def _native_stderr_held_back():
  """Keeps off the terminal what C++ code writes to standard error, unless an exception makes it matter.

  TensorFlow's libraries tell at every start, before any log level counts, that this machine has no CUDA and
  which CPU instructions they use.
  """
  sys.stderr.flush()
  original = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except BaseException:
      held.seek(0)
      os.write(original, held.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(original, 2)
      os.close(original)


# TensorFlow reads this once, when it is first imported.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
with _native_stderr_held_back():
  import seqio  # noqa: F401
  import tensorflow as tf

  try:
    # TensorFlow only feeds data here; left alone it would take the memory of every GPU it sees.
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:
    pass  # Whoever used TensorFlow before this import has chosen its devices already.
