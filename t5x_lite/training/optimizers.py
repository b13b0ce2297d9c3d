"""Optimizers, from optax.

An optimizer is configured as a function of its learning rate, such as `adafactor` here or
`optax.lion`, so that the trainer knows the schedule it logs.
"""

import jax
import jax.numpy as jnp
import optax

from t5x_lite import errors, sharding
from t5x_lite.models import stacking

MOMENT_DTYPES = ('float32', 'bfloat16')


def adafactor(
  learning_rate,
  *,
  decay_rate=0.8,
  step_offset=0,
  clipping_threshold=1.0,
  multiply_by_parameter_scale=True,
  factored=True,
  min_dim_size_to_factor=128,
  epsilon=1e-30,
  momentum=None,
  dtype_momentum='float32',
  weight_decay_rate=None,
):
  """Adafactor (Shazeer and Stern 2018) with T5's defaults, acting on each layer by itself.

  The factored second moments take the two largest axes, which the layer axis of stacked
  parameters never is while it is shorter than `min_dim_size_to_factor`. The update's clipping
  and the scale by the parameter's size are means over a parameter, so they are mapped over
  the layer axis.

  Args:
    learning_rate: number or schedule, relative to the root mean square of a parameter.
    decay_rate: the second moment decays by 1 - step**-decay_rate.
    step_offset: step at which fine-tuning starts, subtracted in that decay.
    clipping_threshold: the largest root mean square of an update; None for no clipping.
    multiply_by_parameter_scale: make the learning rate relative.
    factored: keep row and column means in place of the second moments.
    min_dim_size_to_factor: smaller matrices keep their whole second moments.
    epsilon: added to the squared gradient.
    momentum: decay of a first moment; None for none.
    dtype_momentum: of that moment between steps, 'float32' or 'bfloat16'.
    weight_decay_rate: share of the parameter subtracted at each step, not scaled by the
      learning rate; None for none.

  Returns:
    `optax.GradientTransformation`.
  """
  parts = [
    _check_layer_axis(min_dim_size_to_factor),
    optax.scale_by_factored_rms(factored, decay_rate, step_offset, min_dim_size_to_factor, epsilon),
  ]
  if clipping_threshold is not None:
    parts.append(per_layer(optax.clip_by_block_rms(clipping_threshold)))
  parts.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
  if multiply_by_parameter_scale:
    parts.append(per_layer(optax.scale_by_param_block_rms()))
  if momentum is not None:
    dtype = _moment_dtype('adafactor.dtype_momentum', dtype_momentum)
    parts.append(optax.ema(momentum, debias=False, accumulator_dtype=dtype))
  if weight_decay_rate is not None:
    parts.append(optax.add_decayed_weights(weight_decay_rate))
  return optax.chain(*parts, optax.scale(-1))


def adamw(learning_rate, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, mu_dtype='float32'):
  """AdamW (Loshchilov and Hutter 2019), element by element; scales do not decay, which begin as 1.

  Args:
    learning_rate: number or schedule.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the square root of the second moment.
    weight_decay: share of the parameter subtracted at each step, times the learning rate.
    mu_dtype: of the first moment between steps, 'float32' or 'bfloat16'. There is none for the
      second: in bfloat16 v (1 - 1e-3) rounds to v, so that it would grow and never decay.

  Returns:
    `optax.GradientTransformation`.
  """
  dtype = _moment_dtype('adamw.mu_dtype', mu_dtype)
  return optax.adamw(
    learning_rate,
    b1=b1,
    b2=b2,
    eps=eps,
    weight_decay=weight_decay,
    mu_dtype=dtype,
    mask=_is_no_scale,
  )


def per_layer(transformation):
  """Makes a stateless optax transformation act on each layer of stacked parameters by itself.

  It is for those that look at a parameter as a whole, such as `optax.scale_by_trust_ratio`.
  """

  def update(updates, state, params=None):
    def update_one(path, update, param):
      def act(update, param):
        return transformation.update(update, state, param)[0]

      if stacking.is_stacked(sharding.names(path)):
        act = jax.vmap(act)
      return act(update, param)

    return jax.tree_util.tree_map_with_path(update_one, updates, params), state

  return optax.GradientTransformation(transformation.init, update)


def _check_layer_axis(min_dim_size_to_factor):
  """Does nothing but refuse stacks so deep that factoring would take the layer axis."""

  def init(params):
    for path, param in jax.tree_util.tree_leaves_with_path(params):
      if stacking.is_stacked(sharding.names(path)) and param.shape[0] >= min_dim_size_to_factor:
        raise errors.UserError(
          f'{param.shape[0]} stacked layers do not fit adafactor.min_dim_size_to_factor='
          f'{min_dim_size_to_factor}: set T5Config.scan_layers=False or raise it'
        )
    return optax.EmptyState()

  return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def _moment_dtype(name, dtype):
  if dtype not in MOMENT_DTYPES:
    raise errors.UserError(f'{name}={dtype!r} may be {" or ".join(map(repr, MOMENT_DTYPES))}')
  return jnp.dtype(dtype)


def _is_no_scale(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: sharding.names(path)[-1] not in ('scale', 'ia3'), params
  )
