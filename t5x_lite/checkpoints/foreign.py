"""Parameters in the format of another project, whichever it is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite import errors
from t5x_lite.checkpoints import layout
from t5x_lite.models.config import T5Config


@dataclasses.dataclass(frozen=True)
class Weights:
  """Parameters that are read one by one.

  Attributes:
    path: what errors call them.
    model: of which they are.
    vocabulary: its fingerprint, see `data.vocabulary`, or None where the format keeps none.
    shapes: of each array, by our name for it with the layers apart, or by theirs if we have none.
    read: function of such a name; returns the numpy array, in the dtype it is kept in.
  """

  path: str
  model: T5Config
  vocabulary: Mapping[str, Any] | None
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]

  def restore_params(self, abstract_params):
    """Returns the parameters, reading one after the other; of a scanned one all layers at a time.

    Args:
      abstract_params: pytree of jax.ShapeDtypeStruct with shardings, of either form of layers.

    Raises:
      UserError: they do not fit, in which case nothing is read.
    """
    wanted = layout.flatten(abstract_params)
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    plan = layout.plan(self.shapes, shapes)
    if problems := layout.differences(plan, shapes):
      raise errors.UserError(
        f'{self.path} does not fit this model: {"; ".join(problems)}; use the configuration of '
        'the model it is of'
      )
    return layout.rebuild(
      abstract_params, {name: self._make(plan[name], leaf) for name, leaf in wanted.items()}
    )

  def _make(self, origin, leaf):
    arrays = [self.read(name) for name in origin.names]
    array = np.stack(arrays) if origin.stacked else arrays[0]
    return jax.make_array_from_callback(
      leaf.shape, leaf.sharding, lambda index: array[index].astype(leaf.dtype)
    )
