"""Decoding one token after the other: the most probable one, or one drawn at random."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite.decoding import loop

# Tokens of which a draw looks at one in its second half.
_BLOCK = 128


@flax.struct.dataclass
class _State:
  """Answers so far, see `loop.Decoded`, and which of them have ended, bool [batch, width]."""

  tokens: jax.Array
  token_scores: jax.Array
  finished: jax.Array


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Draws tokens from the softmax of the logits, or takes the most probable ones.

  What is drawn depends on the seed and on the number of the row, not on what else is in the batch or where it is computed.

  Attributes:
    temperature: what logits are divided by; 0 takes the most probable token.
    filters: transforms of the divided logits, such as `logits.TopK`.
    samples: answers to each input.
    seed: of the draws, where inputs have none of their own.
    eos_id: the token that ends an answer.
  """

  temperature: float = 0.0
  filters: tuple = ()
  samples: int = 1
  seed: int = 0
  eos_id: int = loop.EOS_ID

  @property
  def beams(self):
    return 1

  def start(self, batch_size, max_length, is_empty):
    shape = (batch_size, self.samples)
    return _State(
      tokens=jnp.zeros((*shape, max_length), jnp.int32),
      token_scores=jnp.zeros((*shape, max_length), jnp.float32),
      finished=jnp.broadcast_to(is_empty[:, None], shape),
    )

  def advance(self, state, logits, step):
    transformed = step.transform(logits)
    if self.temperature:
      transformed = transformed / self.temperature
      for each in self.filters:
        transformed = each(transformed, None)
      token = draw(transformed, self._uniform(step, transformed.shape[1]))
    else:
      token = _most_probable(transformed)
    token = jnp.where(state.finished, 0, token).astype(jnp.int32)
    log_prob = _at(logits, token) - jax.nn.logsumexp(logits, axis=-1)
    log_prob = jnp.where(state.finished | step.is_forced, 0.0, log_prob)

    def write(into, values):
      return jax.lax.dynamic_update_slice_in_dim(into, values[..., None], step.index, axis=-1)

    is_end = (token == self.eos_id) & ~step.is_forced
    state = _State(
      tokens=write(state.tokens, token),
      token_scores=write(state.token_scores, log_prob),
      finished=state.finished | is_end,
    )
    return state, token, None

  def _uniform(self, step, width):
    """Returns float32 [batch, width, 1] in [0, 1), of this step, a row and an answer to it."""

    def of_answer(seed, row, answer):
      key = jax.random.fold_in(jax.random.key(seed), step.index)
      return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, row), answer))

    seeds, rows = (self.seed, None) if step.seeds is None else (step.seeds, 0)
    of_row = jax.vmap(of_answer, (None, None, 0))
    of_rows = jax.vmap(of_row, (rows, 0, None))
    return of_rows(seeds, step.row_numbers, jnp.arange(width))[..., None]

  def is_done(self, state, index):
    del index
    return jnp.all(state.finished)

  def tokens(self, state):
    return state.tokens

  def result(self, state):
    """The answers, the most probable first."""
    scores = jnp.sum(state.token_scores, axis=-1)
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return jax.tree.map(
      lambda x: jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), axis=1),
      loop.Decoded(state.tokens, scores, state.token_scores),
    )


def draw(logits, uniform):
  """Draws tokens by inverting their distribution function.

  The tokens are summed up in blocks, so that of most of them nothing but their block's sum is ever needed.

  Args:
    logits: float32 [..., vocab].
    uniform: float32 [..., 1], uniform in [0, 1).

  Returns:
    int32 [...].
  """
  weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  missing = -weights.shape[-1] % _BLOCK
  blocks = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
  blocks = blocks.reshape(*weights.shape[:-1], -1, _BLOCK)  # [..., blocks, block]
  until_block = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)  # [..., blocks]
  wanted = uniform * until_block[..., -1:]
  block = jnp.sum(until_block <= wanted, axis=-1, keepdims=True)  # [..., 1]
  # The last block with any weight, if rounding led past it.
  block = jnp.minimum(block, jnp.sum(until_block < until_block[..., -1:], axis=-1, keepdims=True))
  before = jnp.where(block > 0, jnp.take_along_axis(until_block, jnp.maximum(block - 1, 0), -1), 0)
  chosen = jnp.take_along_axis(blocks, block[..., None], axis=-2)[..., 0, :]  # [..., block]
  until_token = before + jnp.cumsum(chosen, axis=-1)
  place = jnp.sum(until_token <= wanted, axis=-1)
  place = jnp.minimum(place, jnp.sum(until_token < until_token[..., -1:], axis=-1))
  return (block[..., 0] * _BLOCK + place).astype(jnp.int32)


def _most_probable(logits):
  """Returns int32 [...], as argmax, which XLA does on one core of a CPU."""
  vocab_size = logits.shape[-1]
  is_highest = logits == jnp.max(logits, axis=-1, keepdims=True)
  first = jnp.min(jnp.where(is_highest, jnp.arange(vocab_size), vocab_size), axis=-1)
  return jnp.minimum(first, vocab_size - 1)  # Of NaN.


def _at(logits, token):
  """Returns [...]: the logits [..., vocab] of one token [...] each."""
  return jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
