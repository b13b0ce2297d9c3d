"""What a training run carries from step to step."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import sharding


@flax.struct.dataclass
class TrainState:
  """Everything that a step reads and writes.

  The dropout key is not kept: it is made of the run's seed and the step.

  Attributes:
    step: int32 scalar, the number of finished steps.
    params: nested dict of float32 arrays.
    opt_state: state of the optax optimizer.
  """

  step: jax.Array
  params: Any
  opt_state: Any


def _initializer(model, optimizer):
  """Returns the function (key) -> TrainState with its logical axes still attached."""
  tokens = np.ones((1, 2), np.int32)
  batch = dict.fromkeys(
    ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens'), tokens
  )

  def init(key):
    boxed = model.init(key, batch)['params']
    params = nn.meta.unbox(boxed)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    return state, nn.get_partition_spec(boxed)

  return init


def abstract_state(model, optimizer, mesh, rules):
  """Returns the TrainState as `jax.ShapeDtypeStruct`s with their shardings; no memory is used."""
  init = _initializer(model, optimizer)
  logical = {}

  def shapes(key):
    state, logical['params'] = init(key)
    return state

  state = jax.eval_shape(shapes, jax.random.key(0))
  shardings = sharding.state_shardings(state, logical['params'], mesh, rules)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
  )


def create(model, optimizer, abstract, seed):
  """Returns a new TrainState, every array made where its shard lives.

  Args:
    model: Flax module.
    optimizer: optax optimizer.
    abstract: from `abstract_state`.
    seed: of the parameters.
  """
  init = _initializer(model, optimizer)
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  return jax.jit(lambda key: init(key)[0], out_shardings=shardings)(jax.random.key(seed))
