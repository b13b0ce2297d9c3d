"""Transforms of logits, on small literal matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.decoding import logits

OUT = -np.inf
EOS = 1


def context(tokens, max_length=6, prefix_length=0):
  """The context of rows of tokens of one length, one answer to each input."""
  tokens = np.array(tokens, np.int32)
  index = tokens.shape[1]
  return logits.Context(
    tokens=jnp.pad(tokens, ((0, 0), (0, max_length - index)))[:, None],
    index=jnp.int32(index),
    num_new=jnp.full((len(tokens), 1), index - prefix_length),
    inputs=jnp.zeros((len(tokens), 1), jnp.int32),
    eos_id=EOS,
  )


def apply(transform, values, *context_arguments, **options):
  """[rows, vocab] of logits, each row the only answer to its input, as transformed under jit."""
  values = np.array(values, np.float32)[:, None]
  result = jax.jit(transform)(values, context(*context_arguments, **options))
  return np.asarray(result)[:, 0]


def banned(transform, tokens, vocab_size=8, **options):
  """Ids that a transform bans after each row of tokens."""
  result = apply(transform, np.zeros((len(tokens), vocab_size)), tokens, **options)
  return [np.flatnonzero(np.isneginf(row)).tolist() for row in result]


def test_repetition_makes_likely_and_unlikely_logits_lower():
  transform = logits.RepetitionPenalty(2.0)
  assert apply(transform, [[3, 3, 2, -2, 4]], [[2, 3, 3]]).tolist() == [[1.5, 3, 1, -4, 4]]


def test_an_ngram_comes_but_once():
  tokens = [[3, 4, 3], [3, 4, 5], [3, 3, 3]]
  assert banned(logits.NoRepeatNgram(2), tokens) == [[4], [], [3]]
  assert banned(logits.NoRepeatNgram(1), tokens) == [[3, 4], [3, 4, 5], [3]]
  assert banned(logits.NoRepeatNgram(3), [[3, 4, 5, 3, 4], [3, 4, 5, 4, 4]]) == [[5], []]
  assert banned(logits.NoRepeatNgram(7), tokens) == [[], [], []]
  assert banned(logits.NoRepeatNgram(2), [[], []]) == [[], []]


def test_eos_waits_for_enough_tokens():
  assert banned(logits.MinNewTokens(3), [[4, 4]]) == [[EOS]]
  assert banned(logits.MinNewTokens(2), [[4, 4]]) == [[]]
  assert banned(logits.MinNewTokens(2), [[4, 4]], prefix_length=1) == [[EOS]]


def test_sequences_are_banned_by_their_last_token():
  transform = logits.BannedTokens(((7,), (3, 4), (5, 3, 6)))
  assert banned(transform, [[3], [4]]) == [[4, 7], [7]]
  assert banned(transform, [[5, 3], [3, 3]]) == [[4, 6, 7], [4, 7]]
  assert banned(transform, [[]]) == [[7]]


def test_tokens_are_forced_at_their_positions():
  transform = logits.ForcedTokens(((0, 5), (-1, EOS)))
  assert banned(transform, [[]], vocab_size=6) == [[0, 1, 2, 3, 4]]
  assert banned(transform, [[5]], vocab_size=6) == [[]]
  assert banned(transform, [[5] * 5], vocab_size=6) == [[0, 2, 3, 4, 5]]
  assert banned(transform, [[3, 3]], vocab_size=6, prefix_length=2) == [[0, 1, 2, 3, 4]]


def test_allowed_answers_are_followed_token_by_token():
  transform = logits.AllowedAnswers(((4, 5, EOS), (4, EOS), (6, 7, 7, EOS)))

  def allowed(tokens, **options):
    return [sorted(set(range(8)) - set(row)) for row in banned(transform, tokens, **options)]

  assert allowed([[]]) == [[4, 6]]
  assert allowed([[4], [6], [5]]) == [[EOS, 5], [7], []]
  assert allowed([[4, 5], [6, 7], [6, 5]]) == [[EOS], [7], []]
  assert allowed([[6, 7, 7]], max_length=4) == [[EOS]]
  assert allowed([[3, 2, 4], [4, 5, 6]], prefix_length=2) == [[EOS, 5], [7]]


# --- What sampling draws from, against sorting ---


def kept_by_sorting(row, p):
  """How Holtzman et al. 2020 define it: the fewest of the most probable tokens."""
  probabilities = np.exp(row - row.max())
  probabilities /= probabilities.sum()
  order = np.argsort(-probabilities, kind='stable')
  number = int(np.searchsorted(np.cumsum(probabilities[order]), p)) + 1
  return set(order[:number].tolist())


def kept(transform, values):
  result = np.asarray(jax.jit(lambda x: transform(x, None))(np.array(values, np.float32)[:, None]))
  assert all(
    np.isneginf(x) or x == y for x, y in zip(result.ravel(), np.ravel(values), strict=True)
  )
  return [set(np.flatnonzero(~np.isneginf(row)).tolist()) for row in result[:, 0]]


def random_logits(rows=20, vocab_size=333):
  return np.random.default_rng(0).normal(0, 3, (rows, vocab_size)).astype(np.float32)


@pytest.mark.parametrize('k', [1, 2, 40, 333, 1000])
def test_top_k_keeps_the_most_probable_tokens(k):
  values = random_logits()
  expected = [set(np.argsort(-row)[:k].tolist()) for row in values]
  assert kept(logits.TopK(k), values) == expected


@pytest.mark.parametrize('p', [0.01, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_fewest_tokens_that_have_the_probability(p):
  values = random_logits()
  assert kept(logits.TopP(p), values) == [kept_by_sorting(row, p) for row in values]


def test_min_p_is_a_share_of_the_highest_probability():
  values = np.log([[0.5, 0.3, 0.12, 0.05, 0.03]])
  assert kept(logits.MinP(0.2), values.astype(np.float32)) == [{0, 1, 2}]


def test_of_equal_logits_all_are_kept_or_none():
  values = [[1.0, 2.0, 2.0, 0.0, -3.0]]
  assert kept(logits.TopK(1), values) == [{1, 2}]
  assert kept(logits.TopK(3), values) == [{0, 1, 2}]
  assert kept(logits.TopP(0.3), values) == [{1, 2}]


def test_banned_tokens_stay_banned():
  values = [[1.0, OUT, 2.0, OUT]]
  for transform in (logits.TopK(3), logits.TopP(0.99), logits.MinP(0.01)):
    assert kept(transform, values) == [{0, 2}]


def test_filters_act_one_after_the_other():
  values = np.log([[0.4, 0.3, 0.2, 0.1]]).astype(np.float32)
  after_top_k = logits.TopK(2)(jnp.array(values)[:, None], None)
  # Of the two that are left the first has 4/7.
  result = logits.TopP(0.5)(after_top_k, None)
  assert np.isneginf(np.asarray(result)).tolist() == [[[False, True, True, True]]]
