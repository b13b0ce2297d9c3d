"""Skips updates that would harm the run: those of gradients that are not finite, or far too large.

A batch that makes the loss jump is better left out than trained on (PaLM, Chowdhery et al. 2022,
section 5.1, left out the batches around each spike). Whether an update is skipped is decided on the
devices, within the step, so that nothing waits for the host.
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite import errors


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """Which updates are skipped, and how many.

  Attributes:
    max_skipped: updates in a row that may be skipped; with one more the run stops. At 0 it stops at
      the first loss or gradient that is not finite.
    spike_factor: an update is skipped too if its gradient norm is above so many times the median of
      the recent norms; None for no such bound.
    window: how many norms, those of the last updates that were not skipped, are the recent ones.
      Before there are so many, there is no bound.
  """

  max_skipped: int = 0
  spike_factor: float | None = None
  window: int = 128

  def __post_init__(self):
    if self.max_skipped < 0:
      raise errors.UserError(f'SKIPPED_UPDATES={self.max_skipped} must be at least 0')
    if self.spike_factor is not None and self.spike_factor <= 1:
      raise errors.UserError(f'SPIKE_FACTOR={self.spike_factor} must be above 1, or None')
    if self.spike_factor is not None and not self.max_skipped:
      raise errors.UserError(
        f'SPIKE_FACTOR={self.spike_factor} is to skip updates, but SKIPPED_UPDATES=0 allows none: '
        'set it to the number in a row after which the run should stop, such as 10'
      )
    if self.window < 2:
      raise errors.UserError(f'GuardConfig.window={self.window} must be at least 2')


@flax.struct.dataclass
class GuardState:
  """What the guard remembers; part of the train state, so that a resumed run decides alike.

  Attributes:
    norms: float32 [window], the gradient norms of the last updates, the oldest overwritten first.
    updates: int32 scalar, the updates that were not skipped.
    skipped: int32 scalar, all that were.
    skipped_in_a_row: int32 scalar, those since the last update.
  """

  norms: jax.Array
  updates: jax.Array
  skipped: jax.Array
  skipped_in_a_row: jax.Array


def abstract(config: GuardConfig, sharding) -> GuardState | None:
  """Returns the state as `jax.ShapeDtypeStruct`s; None for a guard that skips nothing."""
  if not config.max_skipped:
    return None
  count = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding)
  norms = jax.ShapeDtypeStruct((config.window,), jnp.float32, sharding=sharding)
  return GuardState(norms, count, count, count)


def create(abstract_guard: GuardState | None) -> GuardState | None:
  """Returns the state at the start; None for None."""
  return jax.tree.map(
    lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), abstract_guard
  )


def gradient_norm(grads):
  """Returns the norm of a whole gradient, finite wherever the gradient and its norm are.

  The squares of float32 numbers above 1e19 overflow. Then they are taken of shares of the largest.
  """
  norm = optax.tree.norm(grads)

  def of_shares():
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(grads)]))
    return largest * optax.tree.norm(jax.tree.map(lambda g: g / largest, grads))

  return jax.lax.cond(jnp.isfinite(norm), lambda: norm, of_shares)


def apply(config: GuardConfig, state: GuardState, old, new, loss, norm):
  """Returns what the step leaves: `new`, or `old` where the update is skipped.

  Args:
    config: `GuardConfig`.
    state: of the guard.
    old: (parameters, optimizer state) before the update.
    new: those after it.
    loss: of the step.
    norm: of its gradient.

  Returns:
    ((parameters, optimizer state), the guard's new state, dict of metrics).
  """
  is_sound = jnp.isfinite(loss) & jnp.isfinite(norm)
  if config.spike_factor is not None:
    is_known = state.updates >= config.window
    is_sound &= ~is_known | (norm <= config.spike_factor * jnp.median(state.norms))

  def choose(new, old):
    # Counts of steps go on, so that a schedule stays that of the step.
    is_count = jnp.ndim(new) == 0 and jnp.issubdtype(new.dtype, jnp.integer)
    return new if is_count else jnp.where(is_sound, new, old)

  updated = state.norms.at[state.updates % config.window].set(norm)
  skipped = (~is_sound).astype(jnp.int32)
  state = GuardState(
    norms=jnp.where(is_sound, updated, state.norms),
    updates=state.updates + is_sound,
    skipped=state.skipped + skipped,
    skipped_in_a_row=(state.skipped_in_a_row + 1) * skipped,
  )
  metrics = {'skipped_updates': state.skipped, 'skipped_in_a_row': state.skipped_in_a_row}
  return jax.tree.map(choose, new, old), state, metrics


def judge(config: GuardConfig, step: int, metrics) -> tuple[str | None, bool]:
  """Says what is wrong with a step, and whether the run has to stop.

  Args:
    config: `GuardConfig`.
    step: the number of the step.
    metrics: floats, as `training.step.train_step` returns them.

  Returns:
    (a sentence, or None if all is well; whether more was skipped in a row than may be).
  """
  wrong = [name for name in ('loss', 'gradient_norm') if not math.isfinite(metrics[name])]
  in_a_row = int(metrics.get('skipped_in_a_row', bool(wrong)))
  if not in_a_row:
    return None, False
  name = wrong[0] if wrong else 'gradient_norm'
  said = f'{name} is {metrics[name]:.6g} at step {step}'
  if not wrong:
    said += f', more than SPIKE_FACTOR={config.spike_factor} times the median of the last updates'
  if config.max_skipped:
    said += f'; {in_a_row} skipped in a row, SKIPPED_UPDATES={config.max_skipped}'
  return said, in_a_row > config.max_skipped
