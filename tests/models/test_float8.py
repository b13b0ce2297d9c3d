"""Products in float8: how far they are from float32, and where they are taken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_lite import errors
from t5x_lite.models import architectures, float8, layers
from t5x_lite.models.config import LoRA

RNG = np.random.default_rng(0)
ROWS, KERNEL, GRADIENT = (
  RNG.normal(size=shape).astype(np.float32) for shape in ((64, 96), (96, 80), (64, 80))
)


def distance(actual, expected):
  """Returns the norm of the difference over the norm of what is expected."""
  actual = np.asarray(actual, np.float32)
  return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e6])
def test_a_product_and_its_gradients_are_near_those_of_float32_at_any_scale(dtype, scale):
  rows, gradient = (jnp.asarray(x * scale, dtype) for x in (ROWS, GRADIENT))
  product, backward = jax.vjp(float8.product, rows, jnp.asarray(KERNEL))
  of_rows, of_kernel = backward(gradient)
  assert (product.dtype, of_rows.dtype, of_kernel.dtype) == (dtype, dtype, np.float32)
  # e4m3 rounds to 3 bits after the point and e5m2 to 2: by at most 1/16 and 1/8 of each number.
  assert distance(product, scale * ROWS @ KERNEL) < 0.045
  assert distance(of_rows, scale * GRADIENT @ KERNEL.T) < 0.07
  assert distance(of_kernel, scale**2 * ROWS.T @ GRADIENT) < 0.07


def test_zeros_give_zeros_and_what_is_no_number_does_not_hide():
  np.testing.assert_array_equal(float8.product(jnp.zeros((2, 96)), KERNEL), np.zeros((2, 80)))
  assert np.isnan(float8.product(jnp.full((2, 96), np.nan), KERNEL)).all()


def test_small_numbers_are_exact():
  rows = np.array([[1.0, -2.0, 0.5], [0.0, 448.0, 3.5]], np.float32)
  kernel = np.array([[448.0], [1.0], [-4.0]], np.float32)
  np.testing.assert_array_equal(float8.product(rows, kernel), rows @ kernel)


def float8_products(config):
  """Returns how many products of a gradient step take float8 operands, and how many do not."""
  model, batch = architectures.create(config), tiny.batch()
  loss = jax.grad(lambda params: (model.apply({'params': params}, batch) ** 2).mean())
  text = jax.jit(loss).trace(tiny.params(config)).lower(lowering_platforms=('cuda',)).as_text()
  products = [line for line in text.splitlines() if 'stablehlo.dot_general' in line]
  rounded = sum('f8E4M3FN' in line for line in products)
  return rounded, len(products) - rounded


def test_the_weights_of_attention_and_feed_forward_are_multiplied_in_float8_and_nothing_else():
  config = tiny.config(matmul_dtype='float8', scan_layers=False)
  rounded, others = float8_products(config)
  # Query, key, value, out and three of the feed-forward layer: once in the encoder, and with
  # cross-attention 11 in the decoder; each with the gradients of both operands.
  assert rounded == 3 * (7 + 11)
  plain, of_plain = float8_products(dataclasses.replace(config, matmul_dtype=None))
  assert plain == 0 and of_plain == rounded + others
  adapted = dataclasses.replace(config, adapter=LoRA(rank=2))
  assert float8_products(adapted)[0] == rounded


def test_the_logits_of_a_model_are_near_those_of_float32():
  config = tiny.config(emb_dim=32, mlp_dim=64, head_dim=16)
  batch = tiny.batch()
  params = jax.tree.map(lambda x: x / 2 if x.ndim > 1 else x, tiny.params(config))

  def logits(config):
    model = architectures.create(config)
    return np.asarray(jax.jit(lambda params: model.apply({'params': params}, batch))(params))

  expected = logits(config)
  assert distance(logits(dataclasses.replace(config, dtype='bfloat16')), expected) < 0.02
  rounded = logits(dataclasses.replace(config, matmul_dtype='float8'))
  assert 0.02 < distance(rounded, expected) < 0.15


def test_inference_multiplies_in_the_dtype_of_the_activations():
  config = tiny.config(matmul_dtype='float8')
  inference, params = tiny.inference_on(config, 1)
  exact, _ = tiny.inference_on(tiny.config(), 1)
  assert inference.loss(params, [tiny.batch()]) == exact.loss(params, [tiny.batch()])
  unrolled, _ = architectures.for_decoding(config, params)
  assert unrolled.config.matmul_dtype is None


def test_a_dtype_that_there_is_not_is_refused():
  with pytest.raises(errors.UserError, match="matmul_dtype holds 'int4'; it may be None, float8"):
    tiny.config(matmul_dtype='int4')
  assert layers.Dense(1, ('embed', 'mlp'), None, 'float32').matmul_dtype is None
