"""What a training run carries from step to step."""

import functools
import re
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from t5x_lite import errors, sharding
from t5x_lite.models import adapters, parameters, selection


@flax.struct.dataclass
class TrainState:
  """Everything that a step reads and writes.

  The dropout key is not kept: it is made of the run's seed and the step.

  Attributes:
    step: int32 scalar, the number of finished steps.
    params: nested dict of float32 arrays.
    opt_state: state of the optax optimizer, of the trainable parameters alone.
    guard: `guard.GuardState`; None where no update is ever skipped.
    trainable: names of the parameters that training changes; None for all.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  guard: Any = None
  trainable: frozenset[str] | None = flax.struct.field(pytree_node=False, default=None)

  def split_params(self):
    """Returns (the trainable parameters, the frozen ones), two nested dicts."""
    if self.trainable is None:
      return self.params, {}
    return selection.split(self.params, self.trainable)


def without_frozen(state):
  """Returns the state with the trainable parameters alone, as a checkpoint may keep it."""
  return state.replace(params=state.split_params()[0])


def param_shapes(model):
  """Returns the parameters as `jax.ShapeDtypeStruct`s."""
  return _abstract_params(model)[0]


def abstract_params(model, mesh, rules):
  """Returns the parameters as `jax.ShapeDtypeStruct`s with their shardings."""
  params, logical = _abstract_params(model)
  return _with_shardings(params, sharding.param_shardings(params, logical, mesh, rules))


def abstract_state(
  model, optimizer, mesh, rules, trainable_parameters='.*', shard_optimizer_state=False
):
  """Returns the TrainState as `jax.ShapeDtypeStruct`s with their shardings; no memory is used.

  Args:
    model: Flax module.
    optimizer: optax optimizer.
    mesh: the mesh.
    rules: see `sharding.MeshConfig`.
    trainable_parameters: regular expression for the names of those that are trained, see
      `models.selection`.
    shard_optimizer_state: see `sharding.MeshConfig`.

  Raises:
    UserError: none are.
  """
  params = abstract_params(model, mesh, rules)
  trainable = _trainable(trainable_parameters, params)
  scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh))
  state = TrainState(step=scalar, params=params, opt_state=None, trainable=trainable)
  trained, _ = state.split_params()
  opt_state = jax.eval_shape(optimizer.init, trained)
  owned = sharding.update_shardings(trained) if shard_optimizer_state else _shardings(trained)
  shardings = sharding.optimizer_shardings(opt_state, trained, owned, mesh)
  return state.replace(opt_state=_with_shardings(opt_state, shardings))


def _trainable(pattern, params):
  """Returns the names of the parameters that a pattern matches; None for all of them."""
  try:
    chosen = selection.choose(pattern, params)
  except re.error as error:
    raise errors.UserError(f'TRAINABLE_PARAMETERS={pattern!r}: {error}') from error
  _, frozen = selection.split(params, chosen)
  if not chosen:
    raise errors.UserError(
      f'TRAINABLE_PARAMETERS={pattern!r} matches none of the parameters, which are '
      + selection.listed(params)
    )
  return chosen if frozen else None


def create_params(model, abstract, seed):
  """Returns new parameters, every array made where its shard lives.

  Args:
    model: Flax module.
    abstract: from `abstract_params`, or some of it.
    seed: of the random initialization.
  """
  boxes = traverse_util.flatten_dict(_boxed(model), sep='/')
  flat = traverse_util.flatten_dict(abstract, sep='/')
  new = {name: parameters.draw(name, boxes[name], seed, x.sharding) for name, x in flat.items()}
  return traverse_util.unflatten_dict(new, sep='/')


def create_some_params(model, abstract, names, seed):
  """Returns some of the parameters that `create_params` makes, as numpy arrays by their names.

  Args:
    model: Flax module.
    abstract: from `abstract_params`.
    names: of the parameters, 'token_embedder/embedding'.
    seed: of the random initialization.
  """
  some, _ = selection.split(abstract, names)
  # Replicated, so that every host can read them.
  some = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(x.sharding.mesh)),
    some,
  )
  made = traverse_util.flatten_dict(create_params(model, some, seed), sep='/')
  return {name: np.asarray(array) for name, array in made.items()}


def create(optimizer, params, abstract):
  """Returns the TrainState at step 0.

  Args:
    optimizer: optax optimizer.
    params: new or restored parameters.
    abstract: from `abstract_state`.
  """
  init = jax.jit(optimizer.init, out_shardings=_shardings(abstract.opt_state))
  step = jax.device_put(jnp.zeros((), jnp.int32), abstract.step.sharding)
  state = abstract.replace(step=step, params=params)
  return state.replace(opt_state=init(state.split_params()[0]))


@functools.lru_cache(maxsize=1)
def _boxed(model):
  """Returns a `parameters.Parameter` with `jax.ShapeDtypeStruct` for each of them, nested."""
  tokens = np.ones((1, 2), np.int32)
  features = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  return jax.eval_shape(
    lambda: model.init(jax.random.key(0), dict.fromkeys(features, tokens))['params']
  )


def _abstract_params(model):
  """Returns (shapes, `PartitionSpec`s of logical axes) of the parameters."""
  boxes = _boxed(model)
  params = jax.tree.map(lambda box: box.value, boxes, is_leaf=parameters.is_box)
  adapters.check_params(model.config.adapter, params)
  return params, nn.get_partition_spec(boxes)


def _with_shardings(tree, shardings):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def _shardings(abstract):
  return jax.tree.map(lambda x: x.sharding, abstract)
