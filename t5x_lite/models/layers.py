"""The parts of a block that are not attention: linear maps, norm, feed-forward, embedding."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from t5x_lite import sharding
from t5x_lite.models import adapters, float8, parameters, quantization
from t5x_lite.models.config import Adapter

ACTIVATIONS = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=True),
  'linear': lambda x: x,
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
}


def project(x, kernel, kernel_axis=0, dtype=None, matmul_dtype=None):
  """Multiplies the last axis of x with one axis of a matrix; returns [..., the other axis].

  The leading axes of x become one, so that the gradient of the kernel is a product of matrices as
  they lie in memory. With several axes XLA writes the transpose of the outputs' gradient first.

  Args:
    x: [..., inputs].
    kernel: matrix whose axis `kernel_axis` has size `inputs`; it is cast to the dtype of x, unless
      it is a `quantization.Int8`.
    kernel_axis: 0 or 1.
    dtype: of the products, in which they are also summed; None for that of x.
    matmul_dtype: 'float8' to round x and a float32 kernel to it, whose `kernel_axis` is 0; or None.
  """
  rows = x.reshape(-1, x.shape[-1])
  if matmul_dtype == 'float8':
    products = float8.product(rows, kernel)
  elif isinstance(kernel, quantization.Int8) or kernel.dtype == jnp.bfloat16:
    products = quantization.project(rows, kernel, kernel_axis).astype(dtype or x.dtype)
  else:
    contracted = (((1,), (kernel_axis,)), ((), ()))
    kernel = kernel.astype(x.dtype)
    products = jax.lax.dot_general(rows, kernel, contracted, preferred_element_type=dtype)
  return products.reshape(*x.shape[:-1], kernel.shape[1 - kernel_axis])


class Dense(nn.Module):
  """A linear map of the last axis, without bias.

  Attributes:
    features: size of the output axis.
    kernel_axes: logical names of the kernel's two axes.
    kernel_init: initializer of the kernel.
    dtype: of the multiplication and of the output.
    adapter: of the model, or None.
    matmul_dtype: see `T5Config`.
  """

  features: int
  kernel_axes: tuple[str, str]
  kernel_init: Callable[..., jax.Array]
  dtype: Any
  adapter: Adapter | None = None
  matmul_dtype: str | None = None

  @nn.compact
  def __call__(self, x):
    """Maps [..., inputs] to [..., features]."""
    shape = (x.shape[-1], self.features)
    kernel = parameters.make(self, 'kernel', self.kernel_init, shape, self.kernel_axes)

    def multiply(x, matrix):
      # An adapter's own matrices are small, and are rounded no further.
      return project(x, matrix, matmul_dtype=self.matmul_dtype if matrix is kernel else None)

    return adapters.apply(self, x.astype(self.dtype), kernel, multiply)


class RMSNorm(nn.Module):
  """Scales to unit root mean square (Zhang and Sennrich 2019): no mean, no bias.

  The statistics are float32 whatever the dtype.
  """

  dtype: Any
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x):
    """Normalizes [..., embed]."""
    scale = parameters.make(self, 'scale', parameters.ONES, x.shape[-1:], ('embed',))
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normalized = (x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)
    return normalized * scale.astype(self.dtype)


class Dropout(nn.Module):
  """Dropout that acts only where a 'dropout' key is given, as in training.

  Attributes:
    rate: share of elements set to zero.
    broadcast_length: draw one mask for all positions of a sequence, as T5 does in its
      residual stream.
  """

  rate: float
  broadcast_length: bool = True

  @nn.compact
  def __call__(self, x):
    """Drops elements of [..., length, features]."""
    broadcast_dims = (-2,) if self.broadcast_length else ()
    return nn.Dropout(self.rate, broadcast_dims)(x, deterministic=not self.has_rng('dropout'))


class MLP(nn.Module):
  """The feed-forward layer; with several activations a gated one (Shazeer 2020).

  One activation has the parameters `wi` and `wo`, several have `wi_0`, `wi_1`, ... and `wo`.
  """

  mlp_dim: int
  activations: Sequence[str]
  dropout_rate: float
  dtype: Any
  adapter: Adapter | None = None
  matmul_dtype: str | None = None

  @nn.compact
  def __call__(self, x):
    """Maps [batch, length, embed] to the same shape."""

    def dense(features, axes, name):
      init = parameters.FAN_IN_TRUNCATED_NORMAL
      return Dense(features, axes, init, self.dtype, self.adapter, self.matmul_dtype, name=name)

    gates = []
    for i, activation in enumerate(self.activations):
      name = 'wi' if len(self.activations) == 1 else f'wi_{i}'
      projected = dense(self.mlp_dim, ('embed', 'mlp'), name)(x)
      projected = ad_checkpoint.checkpoint_name(projected, 'mlp_wi')
      gates.append(ACTIVATIONS[activation](projected))
    hidden = gates[0]
    for gate in gates[1:]:
      hidden = hidden * gate
    hidden = Dropout(self.dropout_rate)(hidden)
    # [batch, length, mlp]
    hidden = nn.with_logical_constraint(hidden, ('batch', 'length', 'mlp'))
    return dense(x.shape[-1], ('mlp', 'embed'), 'wo')(hidden)


def mlp_of(config):
  """Returns the `MLP` of a `T5Config`."""
  return MLP(
    config.mlp_dim,
    config.mlp_activations,
    config.dropout_rate,
    config.dtype,
    config.adapter,
    config.matmul_dtype,
  )


class Embed(nn.Module):
  """The token embedding, which both stacks and, when tied, the logits share.

  The rows are not scaled by sqrt(embed), unlike Vaswani et al. 2017.
  """

  vocab_size: int
  emb_dim: int
  dtype: Any

  def setup(self):
    shape, axes = (self.vocab_size, self.emb_dim), ('vocab', 'embed')
    self.embedding = parameters.make(self, 'embedding', parameters.NORMAL, shape, axes)

  def __call__(self, tokens):
    """Looks up tokens [batch, length]; returns [batch, length, embed]."""

    # The rows are gathered whole, as every fsdp weight is before its use. Without this, on a mesh
    # with fsdp and tensor axes, the partitioner replicates the embedded batch on every device.
    def rows(x):
      return jnp.take(sharding.constrain(x, ('vocab', None)), tokens, axis=0)

    # Of the array, or of both arrays of a `quantization.Int8`.
    return jax.tree.map(rows, self.embedding).astype(self.dtype)

  def attend(self, x):
    """Returns the float32 logits [..., vocab] of x [..., embed] against every row, scaled."""
    return project(x.astype(self.dtype), self.embedding, 1, jnp.float32) * self.emb_dim**-0.5


class OutputLogits(nn.Module):
  """The untied output matrix of T5 1.1: operands in `dtype`, float32 logits."""

  vocab_size: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    """Maps [..., embed] to float32 [..., vocab]."""
    init, shape = parameters.FAN_IN_TRUNCATED_NORMAL, (x.shape[-1], self.vocab_size)
    kernel = parameters.make(self, 'kernel', init, shape, ('embed', 'vocab'))
    return project(x.astype(self.dtype), kernel, dtype=jnp.float32)
