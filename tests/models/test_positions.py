"""Relative position buckets, the bias read from them, and the formulas of the other schemes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_lite import errors
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


def test_rotary_turns_pairs_as_complex_numbers_do():
  """Su et al. 2021, equation 13: pair i at position m is multiplied by exp(1j * m * theta_i)."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
  position = np.array([[0, 1, 2, 0, 1], [7, 8, 9, 10, 500]])
  theta = 10000.0 ** (-2 * np.arange(4) / 8)
  numbers = x[..., 0::2] + 1j * x[..., 1::2].astype(np.float64)
  turned = numbers * np.exp(1j * position[:, :, None, None] * theta)
  rotated = positions.rotate(x, positions.rotation(jnp.asarray(position), 8))
  np.testing.assert_allclose(rotated[..., 0::2], turned.real, atol=1e-4)
  np.testing.assert_allclose(rotated[..., 1::2], turned.imag, atol=1e-4)
  near = position < 20
  np.testing.assert_allclose(rotated[near][..., 0::2], turned[near].real, atol=3e-6)


def test_rotary_products_depend_on_the_difference_of_positions_alone():
  rng = np.random.default_rng(0)
  query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def product(query_position, key_position):
    turned = [
      positions.rotate(x, positions.rotation(jnp.array([[position]]), 8))
      for x, position in ((query, query_position), (key, key_position))
    ]
    return float(jnp.sum(turned[0] * turned[1]))

  assert product(3, 1) == pytest.approx(product(12, 10), abs=1e-5)
  assert product(0, 0) == pytest.approx(float(np.sum(query * key)), abs=1e-6)
  assert abs(product(3, 1) - product(1, 3)) > 1e-2


def test_sinusoids_follow_the_formula():
  """Vaswani et al. 2017, section 3.5, feature by feature."""
  position = np.array([[0, 1, 2, 40]])
  expected = np.zeros((1, 4, 6))
  for column, place in enumerate(position[0]):
    for i in range(3):
      expected[0, column, 2 * i] = np.sin(place / 10000 ** (2 * i / 6))
      expected[0, column, 2 * i + 1] = np.cos(place / 10000 ** (2 * i / 6))
  np.testing.assert_allclose(positions.sinusoids(jnp.asarray(position), 6), expected, atol=1e-5)


@pytest.mark.parametrize('scheme', ['sinusoidal', 'learned'])
def test_absolute_positions_are_added_to_the_tokens(scheme):
  config = tiny.config(
    position_scheme=scheme, max_position_embeddings=5 if scheme == 'learned' else None
  )
  stack = positions.StackPositions(config, bidirectional=True)
  x = jnp.ones((1, 4, 8))
  variables = nn.unbox(stack.init(jax.random.key(0), x))
  position = jnp.array([[0, 1, 0, 1]])
  placed, placement = stack.apply(variables, x, position)
  if scheme == 'learned':
    table = variables['params']['position_embedder']['embedding']
    assert table.shape == (5, 8)
  else:
    table = positions.sinusoids(jnp.arange(2)[None], 8)[0]
  np.testing.assert_allclose(placed - x, table[position], atol=1e-6)
  assert placement.bias is None and placement.rotation is None


def test_more_positions_than_were_learned_are_refused():
  config = tiny.config(position_scheme='learned', max_position_embeddings=5)
  stack = positions.StackPositions(config, bidirectional=True)
  with pytest.raises(
    errors.UserError, match='6 positions are more than .*max_position_embeddings=5'
  ):
    stack.init(jax.random.key(0), jnp.ones((1, 6, 8)))
