"""The programs of `train` and `infer`, lowered for devices that need not be there."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite import losses, sharding
from t5x_lite.decoding import options
from t5x_lite.evaluation import inference
from t5x_lite.models import architectures, config, quantization
from t5x_lite.monitoring import flops
from t5x_lite.planning import hlo, topologies
from t5x_lite.training import random_batches, schedules
from t5x_lite.training import state as training_state
from t5x_lite.training import step as training_step


@dataclasses.dataclass(frozen=True)
class Program:
  """A program and what it is for.

  Attributes:
    lowered: ready to be compiled.
    arguments: what it is called with, arrays without content, by what they are.
    model_flops: what it takes of all devices, by the model's shapes.
  """

  lowered: jax.stages.Lowered
  arguments: Mapping[str, Any]
  model_flops: float

  def argument_bytes(self, *names: str) -> int:
    """Returns what its arguments, or those of the given names, take of one device."""
    return sharding.bytes_per_device([self.arguments[name] for name in names or self.arguments])


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """A train step that can be lowered.

  Attributes:
    model: `T5Config`.
    mesh: `sharding.MeshConfig`.
    topology: see `topologies.devices`.
    batch_size: rows, over all devices.
    lengths: tokens of 'inputs', if there are any, and 'targets'.
    pack: whether several short examples share a row.
    optimizer: function of a learning rate that returns an optax optimizer.
    learning_rate: schedule, or a rate that stays the same.
    loss: `losses.LossConfig`.
    trainable_parameters: see `training_state.abstract_state`.
    num_microbatches: parts of a batch whose gradients are accumulated.
  """

  model: config.T5Config
  mesh: sharding.MeshConfig
  topology: str | None
  batch_size: int
  lengths: Mapping[str, int]
  pack: bool
  optimizer: Callable
  learning_rate: Callable | float
  loss: losses.LossConfig
  trainable_parameters: str
  num_microbatches: int

  @property
  def devices(self) -> tuple[jax.Device, ...]:
    """All that it is for."""
    return topologies.devices(self.topology)

  def abstract_state(self) -> training_state.TrainState:
    """Returns the state without content, with its shardings.

    Raises:
      UserError: the batch or a parameter does not divide by the devices.
    """
    mesh = sharding.make_mesh(self.mesh, self.devices)
    sharding.check_batch_size(self.batch_size, mesh, self.num_microbatches)
    optimizer = self.optimizer(schedules.of(self.learning_rate))
    with sharding.activate(mesh, self.mesh.rules):
      return training_state.abstract_state(
        architectures.create(self.model),
        optimizer,
        mesh,
        self.mesh.rules,
        self.trainable_parameters,
        self.mesh.shard_optimizer_state,
      )

  def lower(self, state: training_state.TrainState) -> Program:
    """Returns the program.

    Args:
      state: from `abstract_state`.
    """
    mesh = jax.tree.leaves(state)[0].sharding.mesh
    rows, schedule = sharding.batch_sharding(mesh), schedules.of(self.learning_rate)
    batch = _abstract(
      random_batches.create(self.model, self.batch_size, self.lengths, self.pack), rows
    )
    with sharding.activate(mesh, self.mesh.rules):
      step = training_step.jit_train_step(
        state,
        rows,
        model=architectures.create(self.model),
        optimizer=self.optimizer(schedule),
        loss_config=self.loss,
        schedule=schedule,
        num_microbatches=self.num_microbatches,
        shard_optimizer_state=self.mesh.shard_optimizer_state,
        seed=0,
      )
      lowered = step.lower(state, batch)
    model_flops = flops.train_step_flops(
      self.model,
      self.batch_size,
      self.lengths.get('inputs', 0),
      self.lengths['targets'],
      sharding.trainable_share(state),
    )
    arguments = {'parameters': state.params, 'optimizer state': state.opt_state, 'batch': batch}
    return Program(lowered, arguments, model_flops)


@dataclasses.dataclass(frozen=True)
class Answering:
  """What `infer` runs for a batch of inputs: it reads them, and then decodes token by token.

  Attributes:
    model: `T5Config`, its layers unrolled.
    mesh: `sharding.MeshConfig`.
    topology: see `topologies.devices`.
    batch_size: inputs, over all devices.
    inputs_length: tokens of an input.
    decoder: how answers are decoded.
    weights: how parameters are kept, see `models.quantization`.
  """

  model: config.T5Config
  mesh: sharding.MeshConfig
  topology: str | None
  batch_size: int
  inputs_length: int
  decoder: options.Decoder
  weights: str | None

  @property
  def devices(self) -> tuple[jax.Device, ...]:
    """All that it is for."""
    return topologies.devices(self.topology)

  @property
  def device_mesh(self) -> jax.sharding.Mesh:
    """The mesh of these."""
    return sharding.make_mesh(self.mesh, self.devices)

  @property
  def cost(self) -> flops.DecodeCost:
    """What it takes by the model's shapes, of all devices."""
    strategy = self.decoder.strategy
    width = strategy.samples * strategy.beams
    return flops.decode_cost(
      self.model, self.batch_size, self.inputs_length, self._num_tokens, width=width
    )

  @property
  def _num_tokens(self):
    return len(self.decoder.prefix) + self.decoder.max_new_tokens

  def lower(self) -> tuple[Program, Any]:
    """Returns the program, and what it keeps of tokens and inputs, arrays without content.

    Raises:
      UserError: the batch or a parameter does not divide by the devices.
    """
    mesh, rules = self.device_mesh, self.mesh.rules
    sharding.check_batch_size(self.batch_size, mesh)
    module, strategy = architectures.create(self.model), self.decoder.strategy
    tokens = random_batches.tokens(self.model, self.batch_size, self.inputs_length)
    batch = inference.Prompts(tokens, np.arange(self.batch_size, dtype=np.int32))
    prompts = _abstract(batch, sharding.batch_sharding(mesh))
    with sharding.activate(mesh, rules):
      params = training_state.abstract_params(module, mesh, rules)

      def start(params, inputs):
        room = self._num_tokens, strategy.samples, strategy.beams
        return module.apply({'params': params}, inputs, *room, method='start')[1]

      cache = jax.eval_shape(start, params, prompts.inputs)
      params = _kept(params, self.weights)
      decode = inference.Inference(self.model, mesh, rules).decode(self.decoder)
      lowered = decode.lower(params, prompts)
    arguments = {'parameters': params, 'batch': prompts}
    return Program(lowered, arguments, self.cost.flops), cache


def cache_bytes(cache, loop: hlo.Instruction) -> int:
  """Returns what a cache takes of a device, as the loop over tokens carries it.

  Args:
    cache: from `Answering.lower`. Its keys and values have four dimensions, which nothing else has that is carried.
    loop: of the compiled program.
  """
  carried, total = list(loop.arrays), 0
  for whole in (x.shape for x in jax.tree.leaves(cache) if x.ndim == 4):
    part = next((each for each in carried if _is_part(each.shape, whole)), None)
    if part is not None:
      carried.remove(part)
      total += part.nbytes
  return total


def _is_part(shape, whole):
  return len(shape) == len(whole) and all(n % m == 0 for m, n in zip(shape, whole, strict=True))


def _kept(params, weights):
  """Parameters as `quantization.keep_all` keeps them, without content."""
  quantization.check(weights)
  kept = jax.eval_shape(lambda params: quantization.keep_all(params, weights), params)

  def place(param, kept):
    def of(x):
      # A scale has one value for an axis of the matrix, which divides no more.
      spec = [
        axis if size == whole else None
        for axis, size, whole in itertools.zip_longest(param.sharding.spec, x.shape, param.shape)
      ]
      placed = jax.sharding.NamedSharding(param.sharding.mesh, jax.sharding.PartitionSpec(*spec))
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed)

    return jax.tree.map(of, kept)

  return jax.tree.map(place, params, kept)


def _abstract(arrays, placed):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), arrays)
