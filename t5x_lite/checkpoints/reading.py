"""Reads the arrays of a checkpoint in the form that a run wants, or says why they do not fit it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_lite import errors
from t5x_lite.checkpoints import layout, storage


class UnreadableError(Exception):
  """The files are damaged or cut short."""


def load(path: epath.Path, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Reads arrays after checking that all of them fit.

  Args:
    path: the checkpoint.
    items: for each of its folders what it is to fill, by name, see `CheckpointManager.restore`.

  Returns:
    The arrays by name.

  Raises:
    UserError: something does not fit, in which case nothing is read.
    UnreadableError: it cannot be read.
  """
  saved, plans = {}, {}
  # Parameters first: where the model differs, the optimizer's state says nothing new.
  for item, wanted in sorted(items.items()):
    if item == storage.TRAINING and not (path / item).exists():
      raise errors.UserError(
        f'checkpoint {path} holds parameters alone: start a new run from it, in another folder '
        '(INITIAL_CHECKPOINT_PATH)'
      )
    try:
      leaves = storage.saved(path, item)
    except Exception as error:
      raise UnreadableError(first_line(error)) from error
    saved[item] = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    plans[item] = layout.plan(saved[item], shapes)
    if problems := layout.differences(plans[item], shapes):
      raise _misfit(path, item, problems)
  abstract = {
    item: {name: layout.abstract_leaf(leaf) for name, leaf in wanted.items()}
    for item, wanted in items.items()
  }
  to_read: dict[str, dict[str, Any]] = {item: {} for item in items}
  for item, origins in plans.items():
    for name, origin in origins.items():
      for saved_name in origin.names:
        to_read[item][saved_name] = layout.abstract_source(
          origin, abstract[item][name], saved[item][saved_name]
        )
  try:
    loaded = storage.load(path, to_read)
  except (jax.errors.JaxRuntimeError, MemoryError):
    raise  # The device's fault (out of memory, mostly), not the checkpoint's.
  except Exception as error:
    raise UnreadableError(first_line(error)) from error
  leaves = {}
  for item in items:
    made = layout.assemble(plans[item], abstract[item], loaded.pop(item))
    leaves |= {
      name: np.asarray(made[name]) if isinstance(leaf, np.ndarray) else made[name]
      for name, leaf in items[item].items()
    }
  return leaves


def first_line(error: Exception) -> str:
  """Says an exception in one line, not too long."""
  text = str(error).strip().partition('\n')[0]
  return f'{type(error).__name__}: {text[:300]}'


def _misfit(path, item: str, problems: list[str]) -> errors.UserError:
  whose, remedy = {
    storage.PARAMS: ('model', 'use the model configuration it was trained with'),
    storage.TRAINING: (
      'optimizer',
      'use the optimizer it was trained with, or start a new run from its parameters '
      '(INITIAL_CHECKPOINT_PATH)',
    ),
  }[item]
  return errors.UserError(
    f'checkpoint {path} does not fit this {whose}: {"; ".join(problems)}; {remedy}'
  )
