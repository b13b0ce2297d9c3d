"""Decoding token by token: greedy."""

import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite import sharding
from t5x_lite.models import architectures

EOS_ID = 1


@flax.struct.dataclass
class Decoded:
  """What was decoded for a batch of inputs.

  Attributes:
    tokens: int32 [batch, max_length]; each row ends in EOS and then 0, or has no EOS if
      max_length came first.
    scores: float32 [batch], the sum of the log-probabilities of a row's tokens, EOS included.
  """

  tokens: jax.Array
  scores: jax.Array


def greedy(config, params, inputs, *, max_length, eos_id=EOS_ID):
  """Decodes the most probable token at every position.

  It is meant to be jitted whole, once for each shape. The loop ends with the last row that
  does; a row without any input, such as one that fills up a batch, ends before it begins.

  Args:
    config: `T5Config`.
    params: its parameters, the layers scanned or not.
    inputs: int32 [batch, inputs_length]; 0 is padding, after a row's tokens.
    max_length: the most tokens to decode, EOS included.
    eos_id: the token that ends a row.

  Returns:
    `Decoded`.
  """
  model, params = architectures.for_decoding(config, params)
  variables = {'params': _cast_once(params, config.dtype)}
  token, cache = model.apply(variables, inputs, max_length, method='start')
  batch_size = inputs.shape[0]

  def unfinished(carry):
    index, _, finished, _, _ = carry
    return (index < max_length) & ~jnp.all(finished)

  def decode_one(carry):
    index, token, finished, decoded, cache = carry
    # [batch, vocab]
    logits, cache = model.apply(variables, token, cache, index, method='decode_step')
    token = jnp.where(finished, 0, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
    log_prob = _at(logits, token) - jax.nn.logsumexp(logits, axis=-1)
    decoded = Decoded(
      tokens=jax.lax.dynamic_update_slice_in_dim(decoded.tokens, token[:, None], index, axis=1),
      scores=decoded.scores + jnp.where(finished, 0.0, log_prob),
    )
    return index + 1, token, finished | (token == eos_id), decoded, cache

  carry = (
    jnp.int32(0),
    token,
    jnp.all(inputs == 0, axis=1),
    Decoded(jnp.zeros((batch_size, max_length), jnp.int32), jnp.zeros((batch_size,), jnp.float32)),
    cache,
  )
  _, _, _, decoded, _ = jax.lax.while_loop(unfinished, decode_one, carry)
  return decoded


def _at(logits, token):
  """Returns [batch]: the logits [batch, vocab] of one token [batch] each."""
  return jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]


def _cast_once(params, dtype):
  """Casts what each step would cast, so that a step in bfloat16 reads half the bytes.

  The relative position bias stays float32, as it is added to float32 logits.
  """

  def cast(path, x):
    return x if sharding.names(path)[-1] == 'rel_embedding' else x.astype(dtype)

  return jax.tree_util.tree_map_with_path(cast, params)
