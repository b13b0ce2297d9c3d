"""Masks as literal matrices, and attention against its formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.models import attention


def as_ints(mask):
  return np.asarray(mask, int).tolist()


def test_padding_mask_needs_a_valid_query_and_a_valid_key():
  query_valid = jnp.array([[True, True, False]])
  key_valid = jnp.array([[True, False]])
  mask = attention.padding_mask(query_valid, key_valid)
  assert as_ints(mask) == [[[[1, 0], [1, 0], [0, 0]]]]


def test_causal_mask_hides_the_future():
  assert as_ints(attention.causal_mask(3)) == [[[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]]


def test_segment_mask_keeps_packed_examples_apart():
  mask = attention.segment_mask(jnp.array([[1, 1, 2, 0]]), jnp.array([[1, 2, 2]]))
  assert as_ints(mask) == [[[[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]]]


@pytest.fixture(scope='module')
def arrays():
  rng = np.random.default_rng(0)
  query = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  key, value = rng.normal(size=(2, 2, 6, 4, 5)).astype(np.float32)
  bias = rng.normal(size=(1, 4, 3, 6)).astype(np.float32)
  mask = rng.random((2, 1, 3, 6)) < 0.6
  mask[..., 0] = True
  return query, key, value, bias, mask


def attend_in_numpy(query, key, value, bias, mask):
  logits = np.einsum('bqhd,bkhd->bhqk', query, key) + bias
  exponentials = np.exp(logits - logits.max(-1, keepdims=True)) * mask
  weights = exponentials / exponentials.sum(-1, keepdims=True)
  return np.einsum('bhqk,bkhd->bqhd', weights, value)


def test_attention_is_the_softmax_of_unscaled_products_plus_bias(arrays):
  query, key, value, bias, mask = arrays
  attended = attention.dot_product_attention(
    query, key, value, bias=bias, mask=mask, dtype=jnp.float32
  )
  expected = attend_in_numpy(*(x.astype(np.float64) for x in (query, key, value, bias)), mask)
  np.testing.assert_allclose(attended, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_shared_bias_is_the_sum_over_the_batch(arrays):
  *_, bias, _ = arrays
  logits, weights = np.random.default_rng(1).normal(size=(2, 2, 4, 3, 6)).astype(np.float32)

  def weighted(add):
    return jax.grad(lambda logits, bias: jnp.sum(jnp.sin(add(logits, bias)) * weights), (0, 1))

  of_logits, of_bias = weighted(attention.add_shared)(logits, bias)
  expected_of_logits, expected_of_bias = weighted(jnp.add)(logits, bias)
  np.testing.assert_array_equal(of_logits, expected_of_logits)
  np.testing.assert_allclose(of_bias, expected_of_bias, rtol=1e-6)


def test_a_row_masked_everywhere_stays_finite_and_averages(arrays):
  query, key, value, bias, mask = arrays
  mask = mask.copy()
  mask[0, :, 1] = False

  def total(query):
    attended = attention.dot_product_attention(
      query, key, value, bias=bias, mask=mask, dtype=jnp.float32
    )
    return attended.sum(), attended

  gradient, attended = jax.jit(jax.grad(total, has_aux=True))(query)
  np.testing.assert_allclose(attended[0, 1], value[0].mean(0), rtol=1e-5, atol=1e-6)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[0, 1], 0)


def test_dropout_acts_on_the_weights(arrays):
  query, key, value, bias, mask = arrays
  seen = []
  attended = attention.dot_product_attention(
    query,
    key,
    value,
    bias=bias,
    mask=mask,
    dropout=lambda w: seen.append(w) or 0 * w,
    dtype='float32',
  )
  np.testing.assert_allclose(seen[0].sum(-1), 1, rtol=1e-6)
  np.testing.assert_array_equal(attended, 0)


def test_bfloat16_activations_keep_float32_logits_and_softmax(arrays):
  query, key, value, bias, mask = arrays
  low = [jnp.asarray(x, jnp.bfloat16) for x in (query, key, value)]

  def attended(query, key, value):
    return attention.dot_product_attention(
      query, key, value, bias=bias, mask=mask, dtype=jnp.bfloat16
    )

  assert attended(*low).dtype == jnp.bfloat16
  lines = jax.jit(attended).lower(*low).as_text().splitlines()
  (exponential,) = [line for line in lines if 'stablehlo.exponential' in line]
  assert exponential.endswith('xf32>')
  logits, context = [line for line in lines if 'stablehlo.dot_general' in line]
  assert logits.endswith('xf32>') and context.endswith('xbf16>')


def test_a_cache_has_the_tokens_of_all_beams_and_leaves_other_slots():
  rng = np.random.default_rng(0)
  shape = (3, 2, 4, 5)  # Rows, beams, heads, features.
  empty = attention.KeyValues(*(np.full((3, 6 * 2, 4, 5), 7, np.float32),) * 2)
  token = attention.KeyValues(*rng.normal(size=(2, *shape)).astype(np.float32))
  cache = jax.jit(lambda slot: attention.CachedKeyValues.of(empty).with_token(token, slot))(2)
  for got, new in (
    (jnp.moveaxis(cache.key, 3, 1), token.key),
    (cache.value.swapaxes(1, 2), token.value),
  ):
    np.testing.assert_array_equal(got[:, 4:6], new)
    np.testing.assert_array_equal(np.delete(got, (4, 5), axis=1), 7)


def test_cached_attention_is_that_to_whole_sequences():
  module = attention.MultiHeadAttention(
    num_heads=2, head_dim=3, emb_dim=4, dropout_rate=0.0, dtype=jnp.float32
  )
  rng = np.random.default_rng(0)
  source, x = (rng.normal(size=(2, length, 4)).astype(np.float32) for length in (5, 3))
  mask = rng.random((2, 1, 3, 5)) > 0.3
  bias = rng.normal(size=(1, 2, 1, 5)).astype(np.float32)
  variables = module.init(jax.random.key(1), x, source)
  expected = module.apply(variables, x, source, mask=mask, bias=jnp.tile(bias, (1, 1, 3, 1)))
  keys_values = module.apply(variables, source, method='project_keys_values')
  cached = attention.CachedKeyValues.of(keys_values)
  got = module.apply(variables, x, cached, mask=mask, bias=bias, method='attend_cached')
  np.testing.assert_allclose(got, expected, atol=1e-6)
