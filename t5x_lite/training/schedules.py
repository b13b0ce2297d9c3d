"""Learning rate schedules: functions of the step, counted from 0."""

import jax.numpy as jnp
import optax

from t5x_lite import errors


def of(learning_rate):
  """Returns the schedule that a learning rate is, or the one on which it stays the same.

  Args:
    learning_rate: function of the step, or a number.

  Raises:
    UserError: it is a function that makes a schedule.
  """
  if isinstance(learning_rate, (int, float)):
    return constant(learning_rate)
  if callable(learning_rate(jnp.int32(0))):
    raise errors.UserError(
      'the learning rate is a function that makes a schedule, not a schedule: put brackets behind '
      'it, as in LEARNING_RATE=@schedules.constant()'
    )
  return learning_rate


def constant(value=1e-3):
  """The same rate at every step; T5 fine-tunes at 1e-3 (Raffel et al. 2020, section 3.1.2)."""
  return optax.constant_schedule(value)


def inverse_square_root(base=1.0, warmup_steps=10_000):
  """Base / sqrt(max(step, warmup_steps)), T5's pre-training schedule (section 3.1.2)."""
  _check_positive('inverse_square_root.warmup_steps', warmup_steps)
  return lambda step: base / jnp.sqrt(jnp.maximum(step, warmup_steps).astype(jnp.float32))


def linear(peak, total_steps, warmup_steps=0, end=0.0):
  """Rises from 0 to `peak` in `warmup_steps`, then falls linearly to `end` at `total_steps`."""
  _check_warmup('linear', warmup_steps, total_steps)
  decay = optax.linear_schedule(peak, end, total_steps - warmup_steps)
  return _after_warmup(peak, warmup_steps, decay)


def cosine(peak, total_steps, warmup_steps=0, end=0.0):
  """Rises from 0 to `peak` in `warmup_steps`, then falls by half a cosine to `end`."""
  _check_warmup('cosine', warmup_steps, total_steps)
  floor = end / peak if peak else 0.0
  decay = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, floor)
  return _after_warmup(peak, warmup_steps, decay)


def _after_warmup(peak, warmup_steps, decay):
  if not warmup_steps:
    return decay
  return optax.join_schedules(
    [optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps]
  )


def _check_positive(name, value):
  if value < 1:
    raise errors.UserError(f'{name} must be at least 1, not {value}')


def _check_warmup(name, warmup_steps, total_steps):
  if not 0 <= warmup_steps < total_steps:
    raise errors.UserError(
      f'{name}.warmup_steps={warmup_steps} must lie in [0, total_steps={total_steps})'
    )
