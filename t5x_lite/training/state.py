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


def param_shapes(model):
  """Returns the parameters as `jax.ShapeDtypeStruct`s."""
  return _abstract_params(model)[0]


def abstract_params(model, mesh, rules):
  """Returns the parameters as `jax.ShapeDtypeStruct`s with their shardings."""
  params, logical = _abstract_params(model)
  return _with_shardings(params, sharding.param_shardings(params, logical, mesh, rules))


def abstract_state(model, optimizer, mesh, rules):
  """Returns the TrainState as `jax.ShapeDtypeStruct`s with their shardings; no memory is used."""
  params, logical = _abstract_params(model)
  shardings = sharding.param_shardings(params, logical, mesh, rules)
  opt_state = jax.eval_shape(optimizer.init, params)
  scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh))
  return TrainState(
    step=scalar,
    params=_with_shardings(params, shardings),
    opt_state=_with_shardings(
      opt_state, sharding.optimizer_shardings(opt_state, params, shardings, mesh)
    ),
  )


def create_params(model, abstract, seed):
  """Returns new parameters, every array made where its shard lives.

  Args:
    model: Flax module.
    abstract: from `abstract_params`.
    seed: of the random initialization.
  """

  def init(key):
    return nn.meta.unbox(_init(model, key))

  return jax.jit(init, out_shardings=_shardings(abstract))(jax.random.key(seed))


def create_some_params(model, names, mesh, seed):
  """Returns some of the parameters that `create_params` makes, as numpy arrays by their names.

  Args:
    model: Flax module.
    names: of the parameters, 'token_embedder/embedding'.
    mesh: on which they are made, replicated.
    seed: of the random initialization.
  """

  def init(key):
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(_init(model, key)))
    by_name = {'/'.join(sharding.names(path)): leaf for path, leaf in leaves}
    return {name: by_name[name] for name in names}

  made = jax.jit(init, out_shardings=sharding.replicated(mesh))(jax.random.key(seed))
  return {name: np.asarray(array.addressable_data(0)) for name, array in made.items()}


def create(optimizer, params, abstract):
  """Returns the TrainState at step 0.

  Args:
    optimizer: optax optimizer.
    params: new or restored parameters.
    abstract: from `abstract_state`.
  """
  init = jax.jit(optimizer.init, out_shardings=_shardings(abstract.opt_state))
  step = jax.device_put(jnp.zeros((), jnp.int32), abstract.step.sharding)
  return TrainState(step=step, params=params, opt_state=init(params))


def _init(model, key):
  """Returns the parameters in the boxes that hold their logical axes."""
  tokens = np.ones((1, 2), np.int32)
  features = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  return model.init(key, dict.fromkeys(features, tokens))['params']


def _abstract_params(model):
  """Returns (shapes, `PartitionSpec`s of logical axes) of the parameters."""
  logical = None

  def init():
    nonlocal logical
    boxed = _init(model, jax.random.key(0))
    logical = nn.get_partition_spec(boxed)
    return nn.meta.unbox(boxed)  # While tracing: under a mesh it constrains the sharding.

  return jax.eval_shape(init), logical


def _with_shardings(tree, shardings):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def _shardings(abstract):
  return jax.tree.map(lambda x: x.sharding, abstract)
