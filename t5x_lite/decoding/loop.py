"""The decoding loop: one for all strategies and all models."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite import sharding
from t5x_lite.decoding import logits as logits_lib
from t5x_lite.models import architectures, beams, quantization

EOS_ID = 1


@flax.struct.dataclass
class Decoded:
  """What was decoded for a batch of inputs: one answer or several to each, the best first.

  Attributes:
    tokens: int32 [batch, answers, max_length]; each answer begins with its forced prefix and ends in EOS and then 0, or
      has no EOS if max_length came first. Nothing but 0 is no answer.
    scores: float32 [batch, answers], what answers are ordered by: of beam search see there; otherwise the sum of
      `token_scores`.
    token_scores: float32 [batch, answers, max_length], the model's log-probability of each token; 0 where it was forced
      by the prefix.
  """

  tokens: jax.Array
  scores: jax.Array
  token_scores: jax.Array


class Strategy(Protocol):
  """Chooses among the next tokens of the answers that are decoded side by side for each input.

  Attributes:
    samples: answers that go on by themselves.
    beams: answers that may go on from each other. One of both is 1, the other is the `width`.
    eos_id: the token that ends an answer.
  """

  samples: int
  beams: int
  eos_id: int

  def start(self, batch_size: int, max_length: int, is_empty: jax.Array):
    """Returns the state before the first token; `is_empty` [batch] are rows that fill up a batch."""

  def advance(self, state, logits: jax.Array, step: 'Step'):
    """Chooses a token for each answer.

    Args:
      state: from `start` or the step before.
      logits: float32 [batch, width, vocab].
      step: what else is known.

    Returns:
      (the new state, int32 tokens [batch, width], int32 [batch, width] which of an input's answers each goes on from;
      None where there are no beams).
    """

  def is_done(self, state, index: jax.Array) -> jax.Array:
    """Returns whether no answer can change any more, after `index` tokens."""

  def tokens(self, state) -> jax.Array:
    """Returns what `logits.Context` has as tokens."""

  def result(self, state) -> Decoded:
    """Returns the answers."""


@flax.struct.dataclass
class Step:
  """What a strategy is told at each step.

  Attributes:
    index: int scalar, the number of tokens before.
    num_new: int32 [batch, 1], the same without the forced prefix.
    is_forced: bool [batch, 1], whether the prefix says what comes.
    row_numbers: int32 [batch], of each input among all; random numbers depend on it.
    seeds: int32 [batch], those of each input; None for the strategy's own.
    transform: maps logits [batch, width, vocab] to those of the tokens that may come.
  """

  index: jax.Array
  num_new: jax.Array
  is_forced: jax.Array
  row_numbers: jax.Array
  seeds: jax.Array | None
  transform: Callable[[jax.Array], jax.Array] = flax.struct.field(pytree_node=False)


def decode(
  config,
  params,
  inputs,
  strategy: Strategy,
  *,
  max_length: int,
  transforms: Sequence[Callable] = (),
  prefix=None,
  row_numbers=None,
  seeds=None,
) -> Decoded:
  """Decodes answers to a batch of inputs.

  It is meant to be jitted whole, once for each shape. The loop ends with the last answer that does; a row without any
  input, such as one that fills up a batch, ends before it begins.

  Args:
    config: `T5Config`.
    params: its parameters, the layers scanned or not.
    inputs: int32 [batch, inputs_length]; 0 is padding, after a row's tokens.
    strategy: `sampling.Sampling` or `search.BeamSearch`.
    max_length: the most tokens of an answer, prefix and EOS included.
    transforms: see `decoding.logits`.
    prefix: int32 [batch, prefix_length], tokens with which the answers begin; 0 is padding, after a row's. None for
      none.
    row_numbers: int32 [batch], see `Step`; None for 0, 1, ...
    seeds: int32 [batch], see `Step`; None for the strategy's.
  """
  model, params = architectures.for_decoding(config, params)
  variables = {'params': cast_once(params, config.dtype)}
  batch_size = inputs.shape[0]
  if prefix is None:
    prefix = jnp.zeros((batch_size, 0), jnp.int32)
  prefix_length = jnp.sum(prefix > 0, axis=1, keepdims=True)  # [batch, 1]
  prefix = jnp.pad(prefix, ((0, 0), (0, max_length)))
  if row_numbers is None:
    row_numbers = jnp.arange(batch_size)
  token, cache = model.apply(
    variables, inputs, max_length, strategy.samples, strategy.beams, method='start'
  )
  width = strategy.samples * strategy.beams

  def transform(state, index, num_new, is_forced, logits):
    context = logits_lib.Context(strategy.tokens(state), index, num_new, inputs, strategy.eos_id)
    for each in transforms:
      logits = each(logits, context)
    if prefix.shape[1] == max_length:  # No prefix.
      return logits
    is_next = jnp.arange(logits.shape[-1]) == prefix[:, index][:, None, None]
    forced = jnp.where(is_next, 0.0, logits_lib.BANNED)
    return jnp.where(is_forced[..., None], forced, logits)

  def unfinished(carry):
    index, _, _, state = carry
    return (index < max_length) & ~strategy.is_done(state, index)

  def decode_one(carry):
    index, token, cache, state = carry
    logits, cache = model.apply(variables, token, cache, index, method='decode_step')
    logits = logits.reshape(batch_size, width, -1)
    num_new = index - prefix_length
    is_forced = num_new < 0
    num_new = jnp.maximum(num_new, 0)
    step = Step(
      index=index,
      num_new=num_new,
      is_forced=is_forced,
      row_numbers=row_numbers,
      seeds=seeds,
      transform=functools.partial(transform, state, index, num_new, is_forced),
    )
    state, chosen, parents = strategy.advance(state, logits, step)
    if strategy.beams > 1:
      cache = beams.of_parents(cache, parents)
    return index + 1, chosen.reshape(token.shape), cache, state

  is_empty = jnp.all(inputs == 0, axis=1)
  state = strategy.start(batch_size, max_length, is_empty)
  *_, state = jax.lax.while_loop(unfinished, decode_one, (jnp.int32(0), token, cache, state))
  return strategy.result(state)


def cast_once(params, dtype):
  """Casts what each step would cast, so that a step in bfloat16 reads half the bytes.

  The relative position bias stays float32, as it is added to float32 logits, and what has fewer
  bytes stays as it is, see `models.quantization`.
  """

  def is_int8(x):
    return isinstance(x, quantization.Int8)

  def cast(path, x):
    stays = is_int8(x) or x.dtype != jnp.float32 or sharding.names(path)[-1] == 'rel_embedding'
    return x if stays else x.astype(dtype)

  return jax.tree_util.tree_map_with_path(cast, params, is_leaf=is_int8)
