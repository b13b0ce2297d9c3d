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
  """Parameters, and the state of their optimizer, that are read one by one.

  Attributes:
    path: what errors call them.
    model: of which they are, or None where the format does not say; see `model_of`.
    vocabulary: its fingerprint, see `data.vocabulary`, or None where the format keeps none.
    shapes: of each array, by our name for it with the layers apart, or by theirs if we have none;
      those that are kept in one array follow each other.
    read: function of such a name, or one of `slots`; returns the numpy array, in the dtype it is
      kept in.
    step: the number of training steps done, or None where the format does not say.
    slots: shapes of what Adafactor keeps of each parameter, by `v_row/`, `v_col/`, `v/` or `m/` and
      the parameter's name, with optax's meaning: see `v_row_axis`. Empty for other optimizers.
  """

  path: str
  model: T5Config | None
  vocabulary: Mapping[str, Any] | None
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]
  step: int | None = None
  slots: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

  def plan(self, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, layout.Origin]:
    """Returns the origin of every array of a model, by name.

    Args:
      wanted: shapes of the model's parameters, in either form of layers.

    Raises:
      UserError: they are not those that are here.
    """
    plan = layout.plan(self.shapes, wanted)
    if problems := layout.differences(plan, wanted):
      raise errors.UserError(
        f'{self.path} does not fit this model: {"; ".join(problems)}; use the configuration of '
        'the model it is of'
      )
    return plan

  def restore_params(self, abstract_params):
    """Returns the parameters, reading one after the other; of a scanned one all layers at a time.

    Args:
      abstract_params: pytree of jax.ShapeDtypeStruct with shardings, of either form of layers.

    Raises:
      UserError: they do not fit, in which case nothing is read.
    """
    wanted = layout.flatten(abstract_params)
    plan = self.plan({name: tuple(leaf.shape) for name, leaf in wanted.items()})
    return layout.rebuild(
      abstract_params, {name: self._make(plan[name], leaf) for name, leaf in wanted.items()}
    )

  def _make(self, origin, leaf):
    arrays = [self.read(name) for name in origin.names]
    array = np.stack(arrays) if origin.stacked else arrays[0]
    return jax.make_array_from_callback(
      leaf.shape, leaf.sharding, lambda index: array[index].astype(leaf.dtype)
    )
