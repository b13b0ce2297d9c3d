"""Transforms of logits: which token may come next, and how probable it is made.

A transform is a function of the logits and a `Context`, such as

    def without_digits(logits, context):
      return jnp.where(DIGITS, BANNED, logits)

Transforms are applied one after the other. Greedy decoding and sampling give them the model's logits, beam search
its log-probabilities, as Hugging Face's transformers do.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# The logit of a token that is not to come.
BANNED = -jnp.inf


@flax.struct.dataclass
class Context:
  """What is known when the next token is chosen.

  Attributes:
    tokens: int32 [batch, width, max_length], what was decoded of each of the `width` answers to an input; 0 from
      `index` on.
    index: int scalar, the number of tokens so far, a forced prefix included.
    num_new: int32 [batch, 1], the same without the prefix.
    inputs: int32 [batch, inputs_length].
    eos_id: the token that ends an answer.
  """

  tokens: jax.Array
  index: jax.Array
  num_new: jax.Array
  inputs: jax.Array
  eos_id: int = flax.struct.field(pytree_node=False)

  @property
  def max_length(self) -> int:
    """The most tokens of an answer."""
    return self.tokens.shape[-1]

  def is_decoded(self):
    """Returns bool [max_length]: the positions before `index`."""
    return jnp.arange(self.max_length) < self.index

  def last(self, number):
    """Returns int32 [batch, width, number]: the last tokens; -1 where there are less."""
    padded = jnp.pad(self.tokens, ((0, 0), (0, 0), (number, 0)), constant_values=-1)
    return jax.lax.dynamic_slice_in_dim(padded, self.index, number, axis=-1)


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
  """Makes what was decoded before less probable (Keskar et al. 2019, section 4.1).

  Attributes:
    penalty: positive logits are divided by it, negative ones multiplied; 1 changes nothing.
  """

  penalty: float

  def __call__(self, logits, context):
    penalized = jnp.where(logits < 0, logits * self.penalty, logits / self.penalty)
    # The tokens after those decoded are 0, that from which decoding starts, which counts as decoded.
    return jnp.where(_any_of(logits, context.tokens), penalized, logits)


@dataclasses.dataclass(frozen=True)
class NoRepeatNgram:
  """Bans tokens that would complete an n-gram for the second time (Paulus et al. 2017, section 2.5).

  Attributes:
    size: n.
  """

  size: int

  def __call__(self, logits, context):
    most, before = context.max_length, self.size - 1
    if most < self.size:
      return logits
    last = context.last(before)
    is_repeated = context.is_decoded()[before:]
    for i in range(before):
      is_repeated &= context.tokens[..., i : most - before + i] == last[..., i : i + 1]
    followers = jnp.where(is_repeated, context.tokens[..., before:], _no_token(logits))
    return jnp.where(_any_of(logits, followers), BANNED, logits)


@dataclasses.dataclass(frozen=True)
class MinNewTokens:
  """Bans EOS until an answer has so many tokens, a forced prefix not counted.

  Attributes:
    number: tokens before EOS.
  """

  number: int

  def __call__(self, logits, context):
    is_short = (context.num_new < self.number)[..., None]
    is_eos = jnp.arange(logits.shape[-1]) == context.eos_id
    return jnp.where(is_short & is_eos, BANNED, logits)


@dataclasses.dataclass(frozen=True)
class BannedTokens:
  """Bans sequences of tokens: the last of one after the others.

  Attributes:
    sequences: of token ids; one of a single token bans it everywhere.
  """

  sequences: Sequence[Sequence[int]]

  def __call__(self, logits, context):
    for *before, banned in self.sequences:
      is_next = jnp.all(context.last(len(before)) == jnp.array(before, jnp.int32), axis=-1)
      is_banned = is_next[..., None] & (jnp.arange(logits.shape[-1]) == banned)
      logits = jnp.where(is_banned, BANNED, logits)
    return logits


@dataclasses.dataclass(frozen=True)
class ForcedTokens:
  """Bans all tokens but one at given positions.

  Attributes:
    tokens: (position, id) each; positions count from 0 after a forced prefix, and -1 is the last that there is.
  """

  tokens: Sequence[tuple[int, int]]

  def __call__(self, logits, context):
    vocabulary = jnp.arange(logits.shape[-1])
    for position, token in self.tokens:
      is_now = context.num_new == position
      if position < 0:
        is_now = context.index == context.max_length + position
      is_other = jnp.broadcast_to(is_now, context.num_new.shape)[..., None] & (vocabulary != token)
      logits = jnp.where(is_other, BANNED, logits)
    return logits


@dataclasses.dataclass(frozen=True)
class AllowedAnswers:
  """Bans what would not lead to one of some answers, such as the labels of a classifier.

  Attributes:
    answers: token ids of each, EOS included.
  """

  answers: Sequence[Sequence[int]]

  def __call__(self, logits, context):
    length = max(context.max_length, *map(len, self.answers))
    table = np.full((len(self.answers), length), -1, np.int32)
    for row, answer in zip(table, self.answers, strict=True):
      row[: len(answer)] = answer
    # An answer begins after the prefix, which may have another length in each row.
    column = jnp.arange(context.max_length)
    start = context.index - context.num_new[..., None]  # [batch, 1, 1]
    shifted = jnp.take_along_axis(context.tokens, (start + column) % context.max_length, axis=-1)
    is_same = (
      shifted[:, :, None] == table[:, : context.max_length]
    )  # [batch, width, answers, position]
    is_open = jnp.all(is_same | (column >= context.num_new[:, :, None, None]), axis=-1)
    following = jnp.take_along_axis(jnp.asarray(table)[None], context.num_new[:, :, None], axis=-1)[
      ..., 0
    ]  # [batch, answers]
    allowed = jnp.where(is_open, following[:, None], _no_token(logits))
    return jnp.where(_any_of(logits, allowed), logits, BANNED)


def _no_token(logits):
  return logits.shape[-1]


def _any_of(logits, tokens):
  """Returns bool, of the logits' shape: which tokens are among [batch, width, n]; ids outside are none."""
  batch, width, vocab_size = logits.shape
  rows = jnp.arange(batch)[:, None, None], jnp.arange(width)[None, :, None]
  tokens = jnp.where(tokens < 0, vocab_size, tokens)
  return jnp.zeros((batch, width, vocab_size), bool).at[(*rows, tokens)].set(True, mode='drop')


# --- What sampling draws from ---


@dataclasses.dataclass(frozen=True)
class TopK:
  """Keeps the k most probable tokens (Fan et al. 2018, section 5.4); of equal ones, all or none.

  Attributes:
    k: how many.
  """

  k: int

  def __call__(self, logits, context):
    def are_enough(threshold):
      return jnp.sum(logits >= threshold, axis=-1, keepdims=True) >= self.k

    return _only_highest(logits, logits, are_enough)


@dataclasses.dataclass(frozen=True)
class TopP:
  """Keeps the fewest of the most probable tokens that together have probability p (Holtzman et al. 2020, section 3.1).

  Attributes:
    p: their probability.
  """

  p: float

  def __call__(self, logits, context):
    probabilities = jax.nn.softmax(logits)

    def are_enough(threshold):
      kept = jnp.where(probabilities >= threshold, probabilities, 0)
      return jnp.sum(kept, axis=-1, keepdims=True) >= self.p

    return _only_highest(logits, probabilities, are_enough)


@dataclasses.dataclass(frozen=True)
class MinP:
  """Keeps tokens that are at least p times as probable as the most probable one (Nguyen et al. 2024, section 3).

  Attributes:
    p: the share.
  """

  p: float

  def __call__(self, logits, context):
    least = jnp.max(logits, axis=-1, keepdims=True) + np.log(self.p)
    return jnp.where(logits >= least, logits, BANNED)


def _only_highest(logits, values, are_enough):
  """Bans all but the tokens with the highest values: those from the largest float32 threshold on that leaves enough.

  Thirty-two halvings of the floats find it exactly, and without sorting [..., vocab].

  Args:
    logits: float32 [..., vocab].
    values: of that shape, what tokens are chosen by.
    are_enough: function of a threshold [..., 1], bool of that shape; it holds for lower ones, too.
  """

  def as_float(key):
    # Keys are in the order of the floats that they stand for: a negative one has its other bits inverted.
    bits = jnp.where(key < 0, key ^ jnp.int32(0x7FFFFFFF), key)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(_, bounds):
    low, high = bounds  # It holds for low, and not for high.
    middle = (low >> 1) + (high >> 1) + (low & high & 1)
    holds = are_enough(as_float(middle))
    return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

  shape = (*values.shape[:-1], 1)
  infinity = 0x7F800000
  low = jnp.full(shape, -infinity - 1, jnp.int32)  # The key of minus infinity.
  high = jnp.full(shape, infinity + 1, jnp.int32)
  low, _ = jax.lax.fori_loop(0, 32, halve, (low, high))
  return jnp.where(values >= as_float(low), logits, BANNED)
