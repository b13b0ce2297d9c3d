"""`t5x-lite plan`: what a run would take of devices that need not be there, before it is paid for."""

import typing
from collections.abc import Callable, Mapping

if typing.TYPE_CHECKING:
  from t5x_lite.losses import LossConfig
  from t5x_lite.models.config import T5Config
  from t5x_lite.sharding import MeshConfig

HELP = 'compile a run for TPUs that are elsewhere: memory, FLOPs, collectives, the least time'
USES_GIN = True
DEFAULT_GIN_FILES = ()


def add_arguments(parser):
  """Adds the devices."""
  parser.add_argument(
    '--topology',
    help="TPU slice to plan for, such as v5e:16x16, v5p:4x4x4, v6e:8x8 or v4:2x2x1, with the extra 'tpu'; "
    'without it the local devices',
  )


def run(args):
  """Plans and prints; returns 1 if it does not fit."""
  from t5x_lite import configuration

  return configuration.configured(plan)(topology=args.topology)


def plan(
  *,
  model: 'T5Config',
  optimizer: Callable,
  learning_rate: Callable | float,
  loss: 'LossConfig',
  mesh: 'MeshConfig',
  batch_size: int,
  task_feature_lengths: Mapping[str, int],
  pack: bool = True,
  num_microbatches: int = 1,
  trainable_parameters: str = '.*',
  topology: str | None = None,
) -> int:
  """Compiles the train step and prints what it takes.

  Args:
    model: what to train.
    optimizer: function of a learning rate that returns an optax optimizer.
    learning_rate: schedule, or a rate that stays the same.
    loss: what the loss is made of.
    mesh: the devices.
    batch_size: rows per step, over all devices.
    task_feature_lengths: {'inputs': tokens, 'targets': tokens}.
    pack: whether several short examples share a row.
    num_microbatches: parts of a batch whose gradients are accumulated.
    trainable_parameters: regular expression for the names of the parameters that are trained.
    topology: the TPU slice, see `planning.topologies`; None for the local devices.

  Returns:
    1 if it does not fit into the devices' memory, else 0.
  """
  import time

  import jax

  from t5x_lite import sharding
  from t5x_lite.models import architectures
  from t5x_lite.monitoring import flops
  from t5x_lite.planning import estimate, report, topologies
  from t5x_lite.training import random_batches, schedules
  from t5x_lite.training import state as training_state
  from t5x_lite.training import step as training_step

  devices = topologies.devices(topology)
  device_mesh = sharding.make_mesh(mesh, devices)
  sharding.check_batch_size(batch_size, device_mesh, num_microbatches)
  module = architectures.create(model)
  schedule = schedules.of(learning_rate)
  transformation = optimizer(schedule)
  rows = sharding.batch_sharding(device_mesh)
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    for name, x in random_batches.create(model, batch_size, task_feature_lengths, pack).items()
  }
  with sharding.activate(device_mesh, mesh.rules):
    state = training_state.abstract_state(
      module,
      transformation,
      device_mesh,
      mesh.rules,
      trainable_parameters,
      mesh.shard_optimizer_state,
    )
    step = training_step.jit_train_step(
      state,
      rows,
      model=module,
      optimizer=transformation,
      loss_config=loss,
      schedule=schedule,
      seed=0,
      num_microbatches=num_microbatches,
      shard_optimizer_state=mesh.shard_optimizer_state,
    )
    start = time.perf_counter()
    argument_bytes = sharding.bytes_per_device((state, batch))
    compiled, memory = estimate.compile_for(step.lower(state, batch), devices, argument_bytes)
  seconds = time.perf_counter() - start
  print(sharding.report(state))
  print(f'\n{sharding.summary(state)}; compiled in {seconds:.0f} s\n')
  print(report.of_memory(memory, state))
  if compiled is None:
    return 1
  lengths = task_feature_lengths
  work = flops.train_step_flops(
    model,
    batch_size,
    lengths.get('inputs', 0),
    lengths['targets'],
    sharding.trainable_share(state),
  )
  print(report.of_time(estimate.roofline(compiled, devices, work, model.dtype), devices))
  return 0
