"""Beam search: the answers with the best scores among those that are looked at side by side."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite.decoding import loop

# The score of a beam that is not there: lower than that of any other, and not banned.
_ABSENT = -1e7
# Values of which `top_k` looks at the highest first.
_BLOCK = 128

LENGTH_PENALTIES = ('brevity', 'length')


@flax.struct.dataclass
class _Beams:
  """Answers of a group, the best first.

  Attributes:
    tokens: int32 [batch, beams, max_length].
    token_scores: float32 [batch, beams, max_length], the model's.
    scores: float32 [batch, beams]: sums of transformed log-probabilities of answers that go on, divided by the length
      penalty of those that have ended.
  """

  tokens: jax.Array
  token_scores: jax.Array
  scores: jax.Array

  def best(self, scores, number):
    """Returns (the `number` best by `scores`, which they are, int32 [batch, number])."""
    scores, which = jax.lax.top_k(scores, number)
    rows = jnp.arange(scores.shape[0])[:, None]
    return _Beams(self.tokens[rows, which], self.token_scores[rows, which], scores), which


@flax.struct.dataclass
class _State:
  """The search, by group.

  Attributes:
    live: `_Beams` that go on.
    ended: `_Beams` that have ended.
    done: bool [batch, groups], whether those that go on cannot become better than those that have ended.
  """

  live: list[_Beams]
  ended: list[_Beams]
  done: jax.Array


@dataclasses.dataclass(frozen=True)
class BeamSearch:
  """Keeps the best beginnings of answers at every length (Raffel et al. 2020, appendix D, names T5's settings).

  Attributes:
    beams: beginnings kept for each input, and answers returned.
    alpha: exponent of the length penalty, by which the sum of an answer's log-probabilities is divided.
    length_penalty: 'brevity' is T5X's, ((5 + length) / 6) ** alpha (Wu et al. 2016, equation 14); 'length' is
      length ** alpha, with which Hugging Face's transformers end a search, too. Lengths count EOS and no forced prefix.
    num_groups: groups of beams, each of which avoids the tokens that those before it took (Vijayakumar et al. 2018).
    diversity: what a token costs for each beam of groups before that took it, in nats.
    eos_id: the token that ends an answer.
  """

  beams: int = 4
  alpha: float = 0.6
  length_penalty: str = 'brevity'
  num_groups: int = 1
  diversity: float = 0.0
  eos_id: int = loop.EOS_ID

  @property
  def samples(self):
    return 1

  @property
  def _group_size(self):
    return self.beams // self.num_groups

  def start(self, batch_size, max_length, is_empty):
    shape = (batch_size, self._group_size)
    absent = _Beams(
      tokens=jnp.zeros((*shape, max_length), jnp.int32),
      token_scores=jnp.zeros((*shape, max_length), jnp.float32),
      scores=jnp.full(shape, _ABSENT),
    )
    # All beams begin alike, so that there is but one.
    live = absent.replace(scores=absent.scores.at[:, 0].set(0.0))
    return _State(
      live=[live] * self.num_groups,
      ended=[absent] * self.num_groups,
      done=jnp.broadcast_to(is_empty[:, None], (batch_size, self.num_groups)),
    )

  def advance(self, state, logits, step):
    log_probs = jax.nn.log_softmax(logits)
    transformed = step.transform(log_probs)
    live, ended, tokens, parents, done = [], [], [], [], []
    for group in range(self.num_groups):
      beams = slice(group * self._group_size, (group + 1) * self._group_size)
      scores = transformed[:, beams] - self.diversity * _counts(tokens, logits.shape)
      group_live, group_ended, which = self._advance_group(
        state.live[group], state.ended[group], state.done[:, group], log_probs[:, beams], scores, step
      )  # fmt: skip
      live.append(group_live)
      ended.append(group_ended)
      tokens.append(jax.lax.dynamic_index_in_dim(group_live.tokens, step.index, 2, keepdims=False))
      parents.append(which + beams.start)
      done.append(state.done[:, group] | self._is_done(group_live, group_ended, step))
    state = _State(live, ended, jnp.stack(done, axis=1))
    return state, jnp.concatenate(tokens, axis=1), jnp.concatenate(parents, axis=1)

  def _advance_group(self, live, ended, done, log_probs, scores, step):
    """Returns (live beams, ended beams, int32 [batch, beams] from which beam each of the live goes on)."""
    size = self._group_size
    # Twice as many as beams: if all of these end, there are as many to go on.
    num_candidates = 2 * size
    num_tokens = min(num_candidates, scores.shape[-1])
    of_beam, token = top_k(scores, num_tokens)  # [batch, beams, tokens]
    batch_size = token.shape[0]  # len() has none where it is a symbol, in an export.
    of_beam = (live.scores[..., None] + of_beam).reshape(batch_size, -1)
    scores, candidate = jax.lax.top_k(of_beam, num_candidates)  # [batch, candidates]
    parent = candidate // num_tokens
    rows = jnp.arange(batch_size)[:, None]
    token = token.reshape(batch_size, -1)[rows, candidate]

    def write(into, values):
      return jax.lax.dynamic_update_slice_in_dim(into, values[..., None], step.index, axis=-1)

    log_prob = jnp.where(step.is_forced, 0.0, log_probs[rows, parent, token])
    candidates = _Beams(
      tokens=write(live.tokens[rows, parent], token),
      token_scores=write(live.token_scores[rows, parent], log_prob),
      scores=scores,
    )
    is_end = (token == self.eos_id) & ~step.is_forced
    may_end = is_end
    if self.length_penalty == 'length':
      max_length = live.tokens.shape[-1]
      may_end = (is_end | (step.index == max_length - 1)) & (jnp.arange(num_candidates) < size)
    may_end &= ~done[:, None] & (scores > _ABSENT / 2)
    normalized = scores / self._penalty(step.num_new + 1)
    normalized = jnp.where(may_end, normalized, _ABSENT)
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), ended, candidates)
    ended, _ = both.best(jnp.concatenate([ended.scores, normalized], axis=1), size)
    live, which = candidates.best(jnp.where(is_end, -jnp.inf, scores), size)
    return live, ended, parent[rows, which]

  def _penalty(self, length):
    base = (5 + length) / 6 if self.length_penalty == 'brevity' else length
    return base**self.alpha

  def _is_done(self, live, ended, step):
    """Returns bool [batch]: whether a group has as many answers as beams, and expects no better ones."""
    length = step.num_new + 1
    if self.length_penalty == 'brevity':
      length += live.tokens.shape[-1] - (step.index + 1)  # The best that a beam can become.
    best_live = live.scores[:, :1] / self._penalty(length)
    return jnp.all(ended.scores[:, -1:] > jnp.maximum(best_live, _ABSENT), axis=1)

  def is_done(self, state, index):
    del index
    return jnp.all(state.done)

  def tokens(self, state):
    return jnp.concatenate([live.tokens for live in state.live], axis=1)

  def result(self, state):
    """The answers that have ended; where none has, those that were cut, with the sums of their log-probabilities."""

    def of_group(live, ended, done):
      is_cut = ~done & (ended.scores[:, 0] == _ABSENT)
      return jax.tree.map(
        lambda x, y: jnp.where(is_cut.reshape(-1, *[1] * (x.ndim - 1)), x, y), live, ended
      )

    groups = list(map(of_group, state.live, state.ended, state.done.T))
    beams = jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *groups)
    beams, _ = beams.best(jnp.where(beams.scores > _ABSENT, beams.scores, -jnp.inf), self.beams)
    return loop.Decoded(beams.tokens, beams.scores, beams.token_scores)


def top_k(values, k):
  """Returns what `jax.lax.top_k` does of [..., vocab], without sorting through all of it.

  The k highest values are in those k blocks whose highest values are the highest.
  """
  num_blocks = -(-values.shape[-1] // _BLOCK)
  if num_blocks <= k:
    return jax.lax.top_k(values, k)
  room = [(0, 0)] * (values.ndim - 1) + [(0, num_blocks * _BLOCK - values.shape[-1])]
  blocks = jnp.pad(values, room, constant_values=-jnp.inf)
  blocks = blocks.reshape(*values.shape[:-1], num_blocks, _BLOCK)
  _, of_block = jax.lax.top_k(jnp.max(blocks, axis=-1), k)
  of_block = jnp.sort(of_block, axis=-1)  # Of equal values the first is to stay the first.
  candidates = jnp.take_along_axis(blocks, of_block[..., None], axis=-2)  # [..., k, block]
  highest, place = jax.lax.top_k(candidates.reshape(*values.shape[:-1], k * _BLOCK), k)
  block = jnp.take_along_axis(of_block, place // _BLOCK, axis=-1)
  return highest, block * _BLOCK + place % _BLOCK


def _counts(tokens, logits_shape):
  """Returns how often each token was taken by the groups before, [batch, 1, vocab]; 0 if there are none."""
  if not tokens:
    return 0.0
  batch, _, vocab_size = logits_shape
  taken = jnp.concatenate(tokens, axis=1)
  counts = jnp.zeros((batch, vocab_size)).at[jnp.arange(batch)[:, None], taken].add(1.0)
  return counts[:, None]
