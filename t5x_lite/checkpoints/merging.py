"""A fine-tuned model's adapter merged into its kernels, one array at a time."""

import dataclasses
import functools

from t5x_lite.checkpoints import foreign
from t5x_lite.models import adapters


def merged(origin) -> foreign.Weights:
  """Returns the weights of a plain model that computes what one with LoRA or (IA)^3 does.

  The adapter's own arrays are read together, at the first kernel, and stay in memory.

  Args:
    origin: `origins.Checkpoint` or `foreign.Weights`.

  Raises:
    UserError: the adapter is a prompt.
  """
  adapter = origin.model.adapter
  adapters.check_mergeable(adapter)

  @functools.cache
  def parts():
    return {name: origin.read(name) for name in origin.shapes if adapters.is_parameter(name)}

  def read(name):
    return adapters.merge_one(adapter, name, origin.read(name), parts().get)

  return foreign.Weights(
    path=origin.path,
    model=dataclasses.replace(origin.model, adapter=None),
    vocabulary=origin.vocabulary,
    shapes={
      name: shape for name, shape in origin.shapes.items() if not adapters.is_parameter(name)
    },
    read=read,
  )
