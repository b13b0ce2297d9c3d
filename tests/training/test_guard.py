"""Updates that are skipped: which, how many in a row, and what of the state stays as it was."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from t5x_lite import errors, losses
from t5x_lite.models import encoder_decoder
from t5x_lite.training import guard, schedules, step
from t5x_lite.training.state import TrainState

MODEL = encoder_decoder.T5(tiny.config(vocab_size=16))
TOKENS = np.array([[3, 4, 5, 1], [6, 7, 1, 0]])
BATCH = {
  'encoder_input_tokens': TOKENS,
  'decoder_input_tokens': np.pad(TOKENS, [(0, 0), (1, 0)])[:, :-1],
  'decoder_target_tokens': TOKENS,
  'decoder_loss_weights': (TOKENS > 0).astype(np.float32),
}
BROKEN = BATCH | {'decoder_loss_weights': np.full(TOKENS.shape, np.nan, np.float32)}
ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def new_guard(config):
  return guard.create(guard.abstract(config, ONE_DEVICE))


def begin(config, optimizer):
  params = jax.jit(lambda: nn.unbox(MODEL.init(jax.random.key(0), BATCH)['params']))()
  state = TrainState(jnp.int32(0), params, optimizer.init(params), new_guard(config))
  train_step = functools.partial(
    step.train_step,
    model=MODEL,
    optimizer=optimizer,
    loss_config=losses.LossConfig(),
    schedule=schedules.constant(1e-2),
    seed=0,
    guard=config,
  )
  return state, jax.jit(train_step)


def test_an_update_that_is_not_finite_is_skipped_and_the_steps_go_on():
  config = guard.GuardConfig(max_skipped=2)
  state, train_step = begin(config, optax.adam(1e-2))
  state, _ = train_step(state, BATCH)
  before = state
  for skipped in (1, 2):
    state, metrics = train_step(state, BROKEN)
    assert np.isnan(metrics['loss'])
    assert (metrics['skipped_updates'], metrics['skipped_in_a_row']) == (skipped, skipped)
  assert state.step == 3
  moments, moments_before = state.opt_state[0], before.opt_state[0]
  jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
  jax.tree.map(np.testing.assert_array_equal, moments.mu, moments_before.mu)
  assert moments.count == 3  # A schedule that optax counts stays that of the step.

  state, metrics = train_step(state, BATCH)
  assert (metrics['skipped_updates'], metrics['skipped_in_a_row']) == (2, 0)
  assert metrics['loss'] < 10
  changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, before.params)
  assert any(jax.tree.leaves(changed))


def test_without_a_guard_the_state_and_the_metrics_are_as_they_were():
  config = guard.GuardConfig()
  assert guard.abstract(config, ONE_DEVICE) is None and guard.create(None) is None
  state, train_step = begin(config, optax.sgd(1e-2))
  state, metrics = train_step(state, BROKEN)
  assert state.guard is None and not any('skipped' in name for name in metrics)
  assert all(np.isnan(x).all() for x in jax.tree.leaves(state.params))


def test_a_norm_far_above_the_median_of_the_last_ones_is_a_spike():
  config = guard.GuardConfig(max_skipped=3, spike_factor=5.0, window=4)
  state, was_skipped = new_guard(config), []
  # 100 comes before there are four to compare with. Then the medians are those of 1, 2, 100, 3; of
  # the same, since 13 was skipped; and of 12, 2, 100, 3, since 12 takes the place of the oldest.
  for norm in (1.0, 2.0, 100.0, 3.0, 13.0, 12.0, 37.0, 38.0):
    (param,), state, metrics = guard.apply(
      config, state, (np.float32(0),), (jnp.float32(1),), np.float32(0), np.float32(norm)
    )
    was_skipped.append(bool(param == 0))
    assert metrics['skipped_updates'] == sum(was_skipped)
  # Five times 2.5 are 12.5, and five times 7.5 are 37.5; then five times the median of 12, 37, 100, 3.
  assert was_skipped == [False, False, False, False, True, False, False, False]
  np.testing.assert_array_equal(state.norms, [12, 37, 38, 3])


def test_a_gradient_whose_squares_overflow_has_a_norm():
  gradient = {'a': jnp.array([3e25, 0.0]), 'b': jnp.array([[4e25]])}
  assert optax.tree.norm(gradient) == jnp.inf
  np.testing.assert_allclose(guard.gradient_norm(gradient), 5e25, rtol=1e-6)
  assert guard.gradient_norm({'a': jnp.array([3.0, 4.0])}) == 5
  assert np.isnan(guard.gradient_norm({'a': jnp.array([jnp.nan, 4.0])}))
  assert not np.isfinite(guard.gradient_norm({'a': jnp.array([jnp.inf, 4.0])}))


def test_a_step_is_judged_by_how_many_were_skipped_in_a_row():
  sound = {'loss': 1.0, 'gradient_norm': 2.0}
  broken = sound | {'gradient_norm': float('nan')}
  strict, lenient = guard.GuardConfig(), guard.GuardConfig(max_skipped=2, spike_factor=3.0)
  assert guard.judge(strict, 7, sound) == (None, False)
  assert guard.judge(strict, 7, broken) == ('gradient_norm is nan at step 7', True)
  assert guard.judge(lenient, 7, sound | {'skipped_in_a_row': 0.0}) == (None, False)
  said, too_often = guard.judge(lenient, 7, broken | {'skipped_in_a_row': 2.0})
  assert said.startswith('gradient_norm is nan at step 7; 2 skipped in a row') and not too_often
  said, too_often = guard.judge(lenient, 7, sound | {'skipped_in_a_row': 3.0})
  assert 'gradient_norm is 2 at step 7, more than SPIKE_FACTOR=3.0 times' in said and too_often


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'max_skipped': -1}, 'SKIPPED_UPDATES=-1 must be at least 0'),
    ({'max_skipped': 1, 'spike_factor': 1.0}, 'SPIKE_FACTOR=1.0 must be above 1'),
    ({'spike_factor': 4.0}, 'but SKIPPED_UPDATES=0 allows none'),
    ({'window': 1}, 'GuardConfig.window=1 must be at least 2'),
  ],
)
def test_a_guard_that_makes_no_sense_is_refused(settings, message):
  with pytest.raises(errors.UserError, match=message):
    guard.GuardConfig(**settings)
