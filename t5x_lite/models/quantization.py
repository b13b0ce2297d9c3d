"""Weights in fewer bytes, for inference: matrices in bfloat16 or in int8.

A product takes its activations in bfloat16, which rounds less than either way to keep the weights
does, and sums in float32. Norms, biases and adapters stay as they are.
"""

import functools
import re

import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite import errors, sharding

WEIGHTS = (None, 'bfloat16', 'int8')
# The names of the matrices, and the axis along which int8 values share a scale: that of a kernel's
# inputs, so that each output channel has its own, and that of the embedding's features, so that
# each token has.
_AXES = {r'.*/kernel': -2, r'token_embedder/embedding': -1}


@flax.struct.dataclass
class Int8:
  """A matrix, or a stack of them, that takes the place of its float32 array.

  Attributes:
    values: int8, of the matrix's shape.
    scale: float32, of that shape, but for a 1 on the axis whose values share it: their largest
      absolute value / 127. Weights were rounded to the nearest multiples of it.
  """

  values: jax.Array
  scale: jax.Array

  @property
  def shape(self):
    return self.values.shape

  def astype(self, dtype):
    """Returns the matrix in floats."""
    return (self.values * self.scale).astype(dtype)


def check(weights):
  """Raises UserError unless `weights` is one of `WEIGHTS`."""
  if weights not in WEIGHTS:
    raise errors.UserError(f"WEIGHTS={weights!r} may be 'bfloat16', 'int8', or None, for float32")


def keep(name, x, weights):
  """Returns a parameter as `weights` has it kept, on the devices where it is.

  Args:
    name: 'encoder/layers_0/mlp/wi/kernel'.
    x: float32; what is no kernel and not the token embedding is returned as it is.
    weights: one of `WEIGHTS`.
  """
  axes = [axis for pattern, axis in _AXES.items() if re.fullmatch(pattern, name)]
  if weights is None or not axes:
    return x
  return _to_int8(x, axes[0]) if weights == 'int8' else x.astype(jnp.dtype(weights))


def keep_all(params, weights):
  """Does so with a nested dict of parameters."""
  check(weights)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: keep('/'.join(sharding.names(path)), x, weights), params
  )


@functools.partial(jax.jit, static_argnums=1)
def _to_int8(x, axis):
  highest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
  scale = jnp.where(highest > 0, highest / 127, 1.0)
  return Int8(jnp.round(x / scale).astype(jnp.int8), scale)


def project(rows, kernel, kernel_axis):
  """Multiplies rows with a matrix in bfloat16 or int8.

  Args:
    rows: [rows, inputs].
    kernel: array, or `Int8` with a scale for each of its other axis.
    kernel_axis: the axis of size `inputs`, 0 or 1.

  Returns:
    float32 [rows, the other axis].
  """
  values = kernel.values if isinstance(kernel, Int8) else kernel
  products = jax.lax.dot_general(
    rows.astype(jnp.bfloat16),
    values.astype(jnp.bfloat16),
    (((1,), (kernel_axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  return products * kernel.scale.reshape(1, -1) if isinstance(kernel, Int8) else products
