"""Sampling: as a distribution, and that it can be repeated."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats
import tiny

from t5x_lite.decoding import logits, loop, sampling

CONFIG = tiny.config(num_heads=4)
INPUTS = np.array([[5, 9, 1, 0], [7, 1, 0, 0], [3, 30, 4, 1], [8, 8, 1, 0]], np.int32)


@functools.cache
def decoder(strategy, max_length):
  def jitted(params, inputs, row_numbers, seeds):
    return loop.decode(
      CONFIG,
      params,
      inputs,
      strategy,
      max_length=max_length,
      row_numbers=row_numbers,
      seeds=seeds,
    )

  return jax.jit(jitted)


def decode(inputs, strategy, max_length=6, first_row=0, seeds=None):
  row_numbers = first_row + np.arange(len(inputs))
  decoded = decoder(strategy, max_length)(tiny.params(CONFIG), inputs, row_numbers, seeds)
  return jax.tree.map(np.asarray, decoded)


@pytest.mark.parametrize('vocab_size', [5, 128, 1000])
def test_draws_are_distributed_as_the_softmax(vocab_size):
  rng = np.random.default_rng(vocab_size)
  values = rng.normal(0, 2, vocab_size).astype(np.float32)
  values[rng.integers(0, vocab_size, vocab_size // 4)] = -np.inf
  number = 200_000
  uniform = rng.random((number, 1), np.float32)
  drawn = jax.jit(sampling.draw)(np.broadcast_to(values, (number, vocab_size)), uniform)
  counts = np.bincount(drawn, minlength=vocab_size)
  expected = number * np.asarray(jax.nn.softmax(values))
  assert not counts[expected == 0].any()
  often = expected > 5
  rest = expected[~often].sum()
  observed = [*counts[often], *([counts[~often].sum()] if rest else [])]
  wanted = [*expected[often], *([rest] if rest else [])]
  assert scipy.stats.chisquare(observed, wanted, sum_check=False).pvalue > 1e-3


def test_a_draw_is_a_token_that_can_be_at_the_ends_of_the_interval():
  values = np.full((1, 300), -np.inf, np.float32)
  values[0, [7, 130, 299]] = (1.0, 0.5, -2.0)
  for uniform, expected in ((0.0, 7), (np.nextafter(np.float32(1), np.float32(0)), 299)):
    assert sampling.draw(values, np.full((1, 1), uniform, np.float32)) == expected
  values[0, 299] = -np.inf
  last = np.full((1, 1), np.nextafter(np.float32(1), np.float32(0)))
  assert sampling.draw(values, last) == 130


def test_the_first_tokens_of_many_samples_are_distributed_as_the_filtered_softmax():
  number, temperature, filters = 4000, 1.7, (logits.TopK(9), logits.TopP(0.8))
  greedy = decode(INPUTS[:1], sampling.Sampling(), 1)
  strategy = sampling.Sampling(temperature, filters, samples=number)
  drawn = decode(INPUTS[:1], strategy, 1)
  # The score of each token is the model's log-probability, which gives the logits back.
  counts = np.bincount(drawn.tokens[0, :, 0], minlength=CONFIG.vocab_size)
  seen = {t: s for t, s in zip(drawn.tokens[0, :, 0], drawn.token_scores[0, :, 0], strict=True)}
  assert greedy.tokens[0, 0, 0] in seen and greedy.scores[0, 0] == pytest.approx(max(seen.values()))
  scores = np.array([seen[t] for t in sorted(seen)], np.float64) / temperature
  expected = np.exp(scores) / np.exp(scores).sum()
  assert 1 < len(seen) <= 9
  observed = counts[sorted(seen)]
  assert scipy.stats.chisquare(observed, number * expected, sum_check=False).pvalue > 1e-3


def test_samples_depend_on_the_seed_and_on_the_number_of_the_row_alone():
  strategy = sampling.Sampling(1.0, samples=3, seed=5)
  whole = decode(INPUTS, strategy)
  alone = [decode(INPUTS[i : i + 1], strategy, first_row=i) for i in range(4)]
  for i, each in enumerate(alone):
    np.testing.assert_array_equal(each.tokens[0], whole.tokens[i])
  other_seed = decode(INPUTS, sampling.Sampling(1.0, samples=3, seed=6))
  other_numbers = decode(INPUTS, strategy, first_row=4)
  for other in (other_seed, other_numbers):
    assert (other.tokens != whole.tokens).any(axis=(1, 2)).all()
  # The samples of an input are not each other's copies.
  assert len({tokens.tobytes() for tokens in whole.tokens.reshape(12, -1)}) == 12


def test_inputs_with_seeds_of_their_own_are_drawn_as_with_these_alone():
  with_seeds = {
    seed: decode(INPUTS, sampling.Sampling(1.0, samples=3, seed=seed)) for seed in (5, 6)
  }
  seeds = np.array([5, 6, 6, 5], np.int32)
  mixed = decode(INPUTS, sampling.Sampling(1.0, samples=3), seeds=seeds)
  for i, seed in enumerate(seeds):
    np.testing.assert_array_equal(mixed.tokens[i], with_seeds[seed].tokens[i])


def test_the_most_probable_sample_comes_first_and_low_temperatures_are_greedy():
  samples = decode(INPUTS, sampling.Sampling(1.5, samples=5))
  np.testing.assert_allclose(samples.scores, samples.token_scores.sum(axis=-1), rtol=1e-6)
  assert (np.diff(samples.scores, axis=1) <= 0).all()
  cold = decode(INPUTS, sampling.Sampling(1e-4, samples=2))
  greedy = decode(INPUTS, sampling.Sampling())
  for i in range(2):
    np.testing.assert_array_equal(cold.tokens[:, i], greedy.tokens[:, 0])
