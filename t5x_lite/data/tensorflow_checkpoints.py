"""TensorFlow's checkpoints: variables by name, in an index and one or more files of data."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from t5x_lite import errors


def open_variables(
  prefix: str,
) -> tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray]]:
  """Opens a checkpoint; no variable is read yet.

  Args:
    prefix: the path of its files up to `.index`.

  Returns:
    The shape of each variable by its name, and a function that reads one.

  Raises:
    UserError: the index is damaged; from the function, the data are.
  """
  try:
    reader = tf.train.load_checkpoint(prefix)
  except (tf.errors.OpError, ValueError) as error:
    raise _damaged(f'{prefix}.index', error) from error
  shapes = reader.get_variable_to_shape_map()

  def read(name):
    try:
      return np.asarray(reader.get_tensor(name))
    except (tf.errors.OpError, IndexError) as error:  # The latter if the file is cut short.
      raise _damaged(f'{prefix}.data-*', error) from error

  return {name: tuple(shape) for name, shape in shapes.items()}, read


def _damaged(files, error) -> errors.UserError:
  reason = str(error).splitlines()[0]
  return errors.UserError(f'{files} is damaged or cut short: copy it again ({reason})')
