"""Adafactor on unrolled and on stacked parameters, AdamW, and optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite import errors
from t5x_lite.models import stacking
from t5x_lite.training import optimizers

STEPS = 4


def random_tree(seed, scale=1.0):
  """A small unrolled tree: one matrix large enough to be factored, one not, and a vector."""
  rng = np.random.default_rng(seed)

  def array(*shape, size):
    return np.asarray(rng.normal(size=shape) * size * scale, np.float32)

  def layer(size):
    return {
      'mlp': {'wi': {'kernel': array(128, 130, size=size)}},
      'attention': {'query': {'kernel': array(130, 6, size=size)}},
      'norm': {'scale': array(6, size=size)},
    }

  # Layers of different magnitude, so that a mean over the stack would be seen.
  return {
    'token_embedder': {'embedding': array(131, 129, size=1.0)},
    'encoder': {f'layers_{i}': layer(10.0**-i) for i in range(3)},
  }


PARAMS = random_tree(0)
GRADIENTS = [random_tree(1 + i, scale=10.0 ** (i - 2)) for i in range(STEPS)]


def train(optimizer, params, gradients):
  @jax.jit
  def update(params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  state = jax.jit(optimizer.init)(params)
  for gradient in gradients:
    params, state = update(params, state, gradient)
  return params


def assert_near(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), actual, expected
  )


SCHEDULE = optax.linear_schedule(1e-2, 2e-2, STEPS)

# our arguments, where they differ those of optax
VARIANTS = {
  'defaults': ({}, {}),
  'clipping_hard': ({'clipping_threshold': 0.1}, {}),
  'without_clipping': ({'clipping_threshold': None}, {}),
  'absolute_learning_rate': ({'multiply_by_parameter_scale': False}, {}),
  'momentum': (
    {'momentum': 0.9},
    {'momentum': 0.9, 'dtype_momentum': jnp.float32},
  ),
  'weight_decay': ({'weight_decay_rate': 1e-2}, {'weight_decay_rate': 1e-2}),
  'not_factored': ({'factored': False}, {}),
  'other_decay': (
    {'decay_rate': 0.7, 'step_offset': -10, 'epsilon': 1e-8},
    {'decay_rate': 0.7, 'decay_offset': -10, 'eps': 1e-8},
  ),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_adafactor_is_optaxs_on_unrolled_and_the_same_layer_by_layer_on_stacked_parameters(name):
  ours, optaxs = VARIANTS[name]
  expected = train(optax.adafactor(SCHEDULE, **(optaxs or ours)), PARAMS, GRADIENTS)
  optimizer = optimizers.adafactor(SCHEDULE, **ours)
  assert_near(train(optimizer, PARAMS, GRADIENTS), expected)
  stacked = train(
    optimizer, stacking.stack_layers(PARAMS), [stacking.stack_layers(g) for g in GRADIENTS]
  )
  assert_near(stacking.unstack_layers(stacked), expected)


def test_optaxs_own_adafactor_mixes_the_layers_of_a_stack():
  expected = train(optax.adafactor(SCHEDULE), PARAMS, GRADIENTS)
  mixed = train(
    optax.adafactor(SCHEDULE),
    stacking.stack_layers(PARAMS),
    [stacking.stack_layers(g) for g in GRADIENTS],
  )
  with pytest.raises(AssertionError):
    assert_near(stacking.unstack_layers(mixed), expected)


def test_large_matrices_are_factored_and_small_ones_are_not():
  state = jax.eval_shape(optimizers.adafactor(1.0).init, stacking.stack_layers(PARAMS))
  (factored,) = [s for s in state if hasattr(s, 'v_row')]
  layers = {name: getattr(factored, name)['encoder']['layers'] for name in ('v_row', 'v_col', 'v')}
  kernels = {name: tree['mlp']['wi']['kernel'].shape for name, tree in layers.items()}
  assert kernels == {'v_row': (3, 128), 'v_col': (3, 130), 'v': (1,)}
  assert layers['v']['attention']['query']['kernel'].shape == (3, 130, 6)
  assert layers['v']['norm']['scale'].shape == (3, 6)


def test_a_stack_as_deep_as_a_factored_axis_is_refused():
  params = {'encoder': {'layers': {'wi': {'kernel': np.zeros((128, 2, 2), np.float32)}}}}
  message = '128 stacked layers do not fit adafactor.min_dim_size_to_factor=128'
  with pytest.raises(errors.UserError, match=message):
    optimizers.adafactor(1e-3).init(params)
  optimizers.adafactor(1e-3, min_dim_size_to_factor=129).init(params)


def test_adamw_decays_everything_but_scales():
  zeros = [jax.tree.map(np.zeros_like, PARAMS)] * STEPS
  optimizer = optimizers.adamw(0.1, weight_decay=0.5)
  trained = train(optimizer, PARAMS, zeros)
  for i in range(3):
    old, new = (tree['encoder'][f'layers_{i}'] for tree in (PARAMS, trained))
    np.testing.assert_array_equal(new['norm']['scale'], old['norm']['scale'])
    kernel = old['mlp']['wi']['kernel'] * (1 - 0.1 * 0.5) ** STEPS
    np.testing.assert_allclose(new['mlp']['wi']['kernel'], kernel, rtol=1e-5)
  ia3 = {'key': {'ia3': np.ones(4, np.float32)}}
  np.testing.assert_array_equal(
    train(optimizer, ia3, [{'key': {'ia3': np.zeros(4)}}])['key']['ia3'], 1
  )


@pytest.mark.parametrize('make', [optimizers.adamw, optax.lion, optax.sgd])
def test_elementwise_optimizers_do_not_care_for_stacking(make):
  optimizer = make(SCHEDULE)
  expected = train(optimizer, PARAMS, GRADIENTS)
  stacked = train(
    optimizer, stacking.stack_layers(PARAMS), [stacking.stack_layers(g) for g in GRADIENTS]
  )
  assert_near(stacking.unstack_layers(stacked), expected)


def test_per_layer_lets_a_norm_based_optimizer_act_layer_by_layer():
  expected = train(optax.scale_by_trust_ratio(), PARAMS, GRADIENTS[:1])
  stacked = train(
    optimizers.per_layer(optax.scale_by_trust_ratio()),
    stacking.stack_layers(PARAMS),
    [stacking.stack_layers(GRADIENTS[0])],
  )
  assert_near(stacking.unstack_layers(stacked), expected)


@pytest.mark.parametrize(
  'make, name',
  [
    (lambda dtype: optimizers.adamw(0.01, mu_dtype=dtype), 'mu'),
    (lambda dtype: optimizers.adafactor(0.02, momentum=0.9, dtype_momentum=dtype), 'ema'),
  ],
  ids=['adamw', 'adafactor'],
)
def test_a_first_moment_in_bfloat16_takes_half_the_bytes_and_fits_a_line_as_well(make, name):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(256, 128)).astype(np.float32)
  outputs = inputs @ rng.normal(size=(128, 130)).astype(np.float32)

  def loss(params):
    return jnp.mean((inputs @ params['kernel'] - outputs) ** 2)

  def fit(dtype):
    optimizer = make(dtype)
    params = {'kernel': np.full((128, 130), 0.1, np.float32)}
    state = optimizer.init(params)
    [kept] = [getattr(part, name)['kernel'] for part in state if hasattr(part, name)]

    def update(carry, _):
      params, state = carry
      value, gradient = jax.value_and_grad(loss)(params)
      updates, state = optimizer.update(gradient, state, params)
      return (optax.apply_updates(params, updates), state), value

    _, values = jax.jit(lambda carry: jax.lax.scan(update, carry, length=200))((params, state))
    return kept, values

  (whole, expected), (half, measured) = fit('float32'), fit('bfloat16')
  assert (whole.dtype, half.dtype) == (jnp.float32, jnp.bfloat16)
  assert half.nbytes == whole.nbytes / 2
  assert expected[-1] < 0.1 * expected[0]
  np.testing.assert_allclose(measured, expected, rtol=0.1)


def test_a_second_moment_in_bfloat16_would_never_decay():
  moment = jnp.asarray(np.random.default_rng(0).uniform(1e-8, 1, 1000), jnp.bfloat16)
  np.testing.assert_array_equal((moment.astype(jnp.float32) * 0.999).astype(jnp.bfloat16), moment)


def test_a_moment_of_another_dtype_is_refused():
  for make, name in (
    (lambda: optimizers.adamw(1e-3, mu_dtype='float16'), 'adamw.mu_dtype'),
    (lambda: optimizers.adafactor(1e-3, momentum=0.9, dtype_momentum='float16'), 'dtype_momentum'),
  ):
    with pytest.raises(errors.UserError, match=f"{name}='float16' may be 'float32' or 'bfloat16'"):
      make()
