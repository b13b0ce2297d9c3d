"""Relative position buckets and the bias read from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.models import positions

# Distance at which each bucket of one direction begins: the whole tables of T5.
TWO_WAY_STARTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)
EXACT = tuple(range(16))
FARTHER = (16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)
ONE_WAY_STARTS = EXACT + FARTHER
DISTANCES = np.arange(201)


def bucket(relative_position, bidirectional):
  return positions.relative_position_bucket(
    jnp.asarray(relative_position), bidirectional=bidirectional, num_buckets=32, max_distance=128
  )


def from_starts(starts):
  return np.searchsorted(starts, DISTANCES, side='right') - 1


def test_encoder_buckets_are_t5s_for_every_distance_in_both_directions():
  table = from_starts(TWO_WAY_STARTS)
  np.testing.assert_array_equal(bucket(-DISTANCES, bidirectional=True), table)
  ahead = np.where(DISTANCES > 0, table + 16, 0)
  np.testing.assert_array_equal(bucket(DISTANCES, bidirectional=True), ahead)
  used = np.unique(bucket(np.arange(-200, 201), bidirectional=True))
  np.testing.assert_array_equal(used, np.delete(np.arange(32), 16))  # 16 is never used.


def test_decoder_buckets_are_t5s_and_the_future_shares_bucket_zero():
  np.testing.assert_array_equal(
    bucket(-DISTANCES, bidirectional=False), from_starts(ONE_WAY_STARTS)
  )
  np.testing.assert_array_equal(bucket(DISTANCES, bidirectional=False), np.zeros(201))


def test_distances_beyond_the_last_share_its_bucket():
  assert bucket([-(10**6), 10**6], bidirectional=True).tolist() == [15, 31]
  assert bucket([-(10**6), 10**6], bidirectional=False).tolist() == [31, 0]


def relative_bias(bidirectional, num_heads=3):
  return positions.RelativePositionBias(
    num_heads=num_heads, num_buckets=32, max_distance=128, bidirectional=bidirectional
  )


@pytest.fixture(scope='module')
def table():
  return jnp.asarray(np.random.default_rng(0).normal(size=(3, 32)), jnp.float32)


@pytest.mark.parametrize('bidirectional', [False, True])
@pytest.mark.parametrize('query_length, key_length', [(5, 5), (1, 7), (3, 140), (140, 3)])
def test_bias_equals_the_lookup_pair_by_pair_in_value_and_gradient(
  table, bidirectional, query_length, key_length
):
  weight = np.random.default_rng(1).normal(size=(1, 3, query_length, key_length))

  def skewed(table):
    variables = {'params': {'rel_embedding': table}}
    bias = relative_bias(bidirectional).apply(variables, query_length, key_length)
    return jnp.sum(bias * weight), bias

  def looked_up(table):
    distance = jnp.arange(key_length)[None, :] - jnp.arange(query_length)[:, None]
    bias = table[:, bucket(distance, bidirectional)][None]
    return jnp.sum(bias * weight), bias

  (gradient, bias), (expected_gradient, expected_bias) = jax.jit(
    lambda table: [jax.grad(f, has_aux=True)(table) for f in (skewed, looked_up)]
  )(table)
  assert bias.shape == (1, 3, query_length, key_length)
  np.testing.assert_array_equal(bias, expected_bias)
  np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('bidirectional', [False, True])
def test_bias_at_a_traced_position_is_that_row_of_the_whole(table, bidirectional):
  module = relative_bias(bidirectional)
  variables = {'params': {'rel_embedding': table}}

  @jax.jit
  def row_and_whole(i):
    return module.apply(variables, i, 9, method='at'), module.apply(variables, 9, 9)

  for i in range(9):
    row, whole = row_and_whole(i)
    np.testing.assert_array_equal(row, whole[:, :, i : i + 1])
