"""Multi-head attention, its masks, and its key/value cache."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from t5x_lite.models import layers, parameters, positions
from t5x_lite.models.config import Adapter

# Large enough to vanish in the softmax, small enough that a row masked everywhere stays finite.
MASKED_LOGIT = -1e10


def padding_mask(query_valid, key_valid):
  """Returns [batch, 1, query, key] bool: both the query [batch, query] and the key are valid."""
  return query_valid[:, None, :, None] & key_valid[:, None, None, :]


def segment_mask(query_segments, key_segments):
  """Returns [batch, 1, query, key] bool: both belong to the same example of a packed row."""
  return query_segments[:, None, :, None] == key_segments[:, None, None, :]


def causal_mask(length):
  """Returns [1, 1, length, length] bool: the key does not lie ahead of the query."""
  position = jnp.arange(length)
  return (position[:, None] >= position[None, :])[None, None]


@jax.custom_vjp
def add_shared(logits, bias):
  """Adds bias [1, heads, query, key] to logits [batch, heads, query, key].

  The bias's gradient is summed over the batch as a product with ones: on a CPU, jax 0.10 took 25
  times as long for a sum over the leading axis of [8, 8, 512, 512].
  """
  return logits + bias


def _add_shared_forward(logits, bias):
  return add_shared(logits, bias), None


def _add_shared_backward(_, gradient):
  ones = jnp.ones((1, gradient.shape[0]), gradient.dtype)
  contracted = (((1,), (0,)), ((), ()))
  return gradient, jax.lax.dot_general(ones, gradient, contracted, precision='highest')


add_shared.defvjp(_add_shared_forward, _add_shared_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(logits, dtype):
  """Returns the softmax of float32 logits over their last axis, in `dtype`.

  So rounded it is all that is kept for the gradient.
  """
  return jax.nn.softmax(logits, axis=-1).astype(dtype)


def _softmax_forward(logits, dtype):
  weights = ad_checkpoint.checkpoint_name(_softmax(logits, dtype), 'attention_weights')
  return weights, weights


def _softmax_backward(dtype, weights, gradient):
  del dtype
  weights, gradient = weights.astype(jnp.float32), gradient.astype(jnp.float32)
  return (weights * (gradient - jnp.sum(weights * gradient, axis=-1, keepdims=True)),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def dot_product_attention(query, key, value, *, bias=None, mask=None, dropout=None, dtype):
  """Attends from each query position to every key position.

  T5 folds 1/sqrt(head_dim) into the query initializer, so the logits are not scaled here.
  Logits and softmax are float32.

  Args:
    query: [batch, query_length, heads, head_dim].
    key: [batch, key_length, heads, head_dim].
    value: of the key's shape.
    bias: [1, heads, query_length, key_length], added to the logits of every example.
    mask: True where attention is allowed, broadcastable to [batch, heads, query_length, key_length].
    dropout: function of the attention weights, or None.
    dtype: of the returned values.

  Returns:
    [batch, query_length, heads, head_dim], in `dtype`.
  """
  logits = jnp.einsum('bqhd,bkhd->bhqk', query, key, preferred_element_type=jnp.float32)
  weights = _attention_weights(logits, bias, mask, dtype)
  if dropout is not None:
    weights = dropout(weights)
  context = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
  return ad_checkpoint.checkpoint_name(context, 'context')


def _attention_weights(logits, bias, mask, dtype):
  """Returns [batch, heads, query_length, key_length] in `dtype`; see `dot_product_attention`."""
  if bias is not None:
    logits = add_shared(logits, bias)
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED_LOGIT)
  return _softmax(logits, dtype)


@flax.struct.dataclass
class KeyValues:
  """Keys and values of some positions, both [batch, length, heads, head_dim]."""

  key: jax.Array
  value: jax.Array


@flax.struct.dataclass
class CachedKeyValues:
  """Keys [rows, heads, head_dim, slots * beams] and values [rows, heads, slots * beams, head_dim].

  In this order, products with a few queries of each row read them as they lie in memory. The beams
  of a row see each other's slots, so that none is ever copied to where another goes on from it.
  """

  key: jax.Array
  value: jax.Array

  @classmethod
  def of(cls, keys_values):
    """Reorders `KeyValues`, the length of which are the slots."""
    return cls(jnp.moveaxis(keys_values.key, 1, 3), jnp.moveaxis(keys_values.value, 1, 2))

  def with_token(self, keys_values, slot):
    """Writes the `KeyValues` of a token of each beam, [rows, beams, heads, head_dim], into a slot."""
    token = CachedKeyValues.of(keys_values)
    first = slot * keys_values.key.shape[1]

    def write(cached, update, axis):
      return jax.lax.dynamic_update_slice_in_dim(cached, update.astype(cached.dtype), first, axis)

    return CachedKeyValues(write(self.key, token.key, 3), write(self.value, token.value, 2))


class MultiHeadAttention(nn.Module):
  """Projects to heads, attends, projects back. Kernels are two-dimensional, as in T5X.

  Attributes:
    num_heads: heads.
    head_dim: width of one head.
    emb_dim: width of the input and of the output.
    dropout_rate: of the attention weights; one mask for all queries.
    dtype: of the computation.
    adapter: of the model, or None.
    matmul_dtype: see `T5Config`.
  """

  num_heads: int
  head_dim: int
  emb_dim: int
  dropout_rate: float
  dtype: Any
  adapter: Adapter | None = None
  matmul_dtype: str | None = None

  def setup(self):
    joined = self.num_heads * self.head_dim

    def projection(init, features=joined, axes=('embed', 'joined_kv')):
      return layers.Dense(features, axes, init, self.dtype, self.adapter, self.matmul_dtype)

    self.query = projection(parameters.fan_in_normal(1 / self.head_dim))
    self.key = projection(parameters.fan_in_normal())
    self.value = projection(parameters.fan_in_normal())
    self.out = projection(parameters.fan_in_normal(), self.emb_dim, ('joined_kv', 'embed'))
    self.dropout = layers.Dropout(self.dropout_rate)

  def _heads(self, projection, x):
    """Projects x [batch, length, embed] to [batch, length, heads, head_dim]."""
    x = ad_checkpoint.checkpoint_name(projection(x), projection.name)
    x = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
    return nn.with_logical_constraint(x, ('batch', 'length', 'heads', 'kv'))

  def project_keys_values(self, x, rotation=None):
    """Returns the `KeyValues` of x [batch, length, embed], the keys turned by a `Rotation`."""
    key = self._heads(self.key, x)
    if rotation is not None:
      key = positions.rotate(key, rotation)
    return KeyValues(key, self._heads(self.value, x))

  def attend(self, x, keys_values, *, bias=None, mask=None, rotation=None):
    """Attends from x [batch, query_length, embed] to projected keys and values.

    Args:
      x: the queries, before their projection.
      keys_values: `KeyValues`.
      bias: see `dot_product_attention`.
      mask: likewise.
      rotation: `positions.Rotation` of the queries, or None.

    Returns:
      [batch, query_length, embed].
    """
    context = dot_product_attention(
      self._query(x, rotation),
      keys_values.key,
      keys_values.value,
      bias=bias,
      mask=mask,
      dropout=self.dropout,
      dtype=self.dtype,
    )
    return self._join_heads(context)

  def _query(self, x, rotation):
    query = self._heads(self.query, x)
    return query if rotation is None else positions.rotate(query, rotation)

  def _join_heads(self, context):
    """[batch, query_length, heads, head_dim] -> [batch, query_length, embed]."""
    joined = context.reshape(*context.shape[:-2], self.num_heads * self.head_dim)
    return ad_checkpoint.checkpoint_name(self.out(joined), 'attention_out')

  def __call__(self, x, source, *, bias=None, mask=None):
    """Attends from x [batch, query_length, embed] to source [batch, key_length, embed]."""
    return self.attend(x, self.project_keys_values(source), bias=bias, mask=mask)

  def attend_cached(self, x, cached, *, bias=None, mask=None, rotation=None):
    """Attends from a token of each beam, x [rows, beams, embed], to `CachedKeyValues`.

    Args:
      x: the queries, before their projection.
      cached: what they attend to.
      bias: broadcastable to [rows, heads, beams, slots], the same for each beam's token in a slot.
      mask: True where a beam attends to a beam's token, broadcastable to
        [rows, 1, beams, slots * beams].
      rotation: `positions.Rotation` of the queries, or None.

    Returns:
      [rows, beams, embed].
    """
    if bias is not None:
      bias = jnp.repeat(bias, cached.key.shape[-1] // bias.shape[-1], axis=-1)
    query = self._query(x, rotation)
    logits = jnp.einsum('bqhd,bhdk->bhqk', query, cached.key, preferred_element_type=jnp.float32)
    weights = _attention_weights(logits, bias, mask, self.dtype)
    # With the queries before the features, which is how einsum would not have it.
    context = jnp.einsum('bhqk,bhkd->bhqd', weights, cached.value)
    return self._join_heads(jnp.moveaxis(context, 1, 2))


def of(config):
  """Returns the `MultiHeadAttention` of a `T5Config`."""
  return MultiHeadAttention(
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    emb_dim=config.emb_dim,
    dropout_rate=config.dropout_rate,
    dtype=config.dtype,
    adapter=config.adapter,
    matmul_dtype=config.matmul_dtype,
  )
