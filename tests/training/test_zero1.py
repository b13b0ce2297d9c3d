"""Optimizer state divided over 'data' (ZeRO-1): the same training in less memory."""

import re

import jax
import numpy as np
import pytest
import tiny

from t5x_lite import losses, sharding
from t5x_lite.checkpoints import manager
from t5x_lite.models import architectures
from t5x_lite.training import optimizers, schedules, step
from t5x_lite.training import state as training_state

CONFIG = tiny.config(vocab_size=384, emb_dim=64, mlp_dim=128, head_dim=16)
MODEL = architectures.create(CONFIG)
SCHEDULE = schedules.constant(1e-2)
MESHES = {
  'data': sharding.data_parallel(),
  'zero1': sharding.zero1(),
  'mixed': sharding.MeshConfig(ici=(2, 2, 2), shard_optimizer_state=True),
}
# The elements of the arrays that have 2^14 or more, and what a device saves of their two moments.
LARGE = 2 * 384 * 64
SAVED = 2 * 4 * LARGE * 7 // 8


OPTIMIZER = optimizers.adamw(SCHEDULE)


def abstract_of(config, optimizer=OPTIMIZER):
  mesh = sharding.make_mesh(config)
  return training_state.abstract_state(
    MODEL, optimizer, mesh, config.rules, '.*', config.shard_optimizer_state
  )


class Program:
  """A compiled step on 8 devices, and runs of it."""

  def __init__(self, config, num_microbatches=1):
    self.abstract = abstract_of(config)
    mesh = sharding.make_mesh(config)
    rows = sharding.batch_sharding(mesh)
    train_step = step.jit_train_step(
      self.abstract,
      rows,
      config.shard_optimizer_state,
      model=MODEL,
      optimizer=OPTIMIZER,
      loss_config=losses.LossConfig(num_chunks=1),
      schedule=SCHEDULE,
      seed=0,
      num_microbatches=num_microbatches,
      clip_global_norm=1.0,
    )
    batch = jax.tree.map(lambda x: np.concatenate([x, x]), tiny.batch(vocab_size=384))
    self.batch = jax.device_put(batch, rows)
    with sharding.activate(mesh, config.rules):
      self.compiled = train_step.lower(self.abstract, self.batch).compile()

  def new_state(self):
    params = training_state.create_params(MODEL, self.abstract.params, seed=0)
    return training_state.create(OPTIMIZER, params, self.abstract)

  def run(self, state, num_steps):
    """Returns (the losses, the last state)."""
    measured = []
    for _ in range(num_steps):
      state, metrics = self.compiled(state, self.batch)
      measured.append(float(metrics['loss']))
    return measured, state


@pytest.fixture(scope='module')
def programs():
  return {name: Program(config) for name, config in MESHES.items()}


@pytest.fixture(scope='module')
def runs(programs):
  """Four steps on each mesh: (the losses, the last state)."""
  return {name: program.run(program.new_state(), 4) for name, program in programs.items()}


def moments(state):
  [adam] = [part for part in state.opt_state if hasattr(part, 'mu')]
  return adam


def test_the_losses_and_the_parameters_are_those_of_whole_optimizer_states(runs):
  expected, whole = runs['data']
  assert expected[-1] < expected[0] - 1
  measured, divided = runs['zero1']
  np.testing.assert_allclose(measured, expected, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    divided.params,
    whole.params,
  )
  np.testing.assert_allclose(runs['mixed'][0], expected, rtol=1e-5)


def test_each_device_keeps_its_part_of_the_moments_and_small_arrays_whole(programs, runs):
  _, state = runs['zero1']
  for x in jax.tree.leaves((moments(state).mu, moments(state).nu)):
    parts = 8 if x.size >= 2**14 else 1
    assert x.addressable_shards[0].data.size == x.size // parts
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))
  per_device = {name: sharding.bytes_per_device(run[1].opt_state) for name, run in runs.items()}
  assert per_device['data'] - per_device['zero1'] == SAVED
  assert f'{per_device["zero1"]:,}' in sharding.report(state).splitlines()[-1]
  arguments = {
    name: program.compiled.memory_analysis().argument_size_in_bytes
    for name, program in programs.items()
  }
  assert arguments['data'] - arguments['zero1'] == SAVED


def test_an_axis_divided_already_is_divided_further_where_it_is_the_largest(runs):
  _, state = runs['mixed']
  # 384 x 64, the 384 over tensor and fsdp, then over data: the 96 that are left are more than 64.
  embedding = moments(state).mu['token_embedder']['embedding']
  assert tuple(embedding.sharding.spec) == (('tensor', 'fsdp', 'data'), None)


def test_what_was_updated_is_gathered_once_and_nothing_else(programs):
  def gathered(name):
    text = programs[name].compiled.as_text()
    return sorted(re.findall(r' = \(?f32\[([\d,]*)\]\S* all-gather', text))

  assert gathered('data') == []
  # The embedding and the output matrix.
  assert gathered('zero1') == ['384,64', '64,384']


def test_a_checkpoint_goes_on_in_either_form(programs, runs, tmp_path):
  for first, then in (('zero1', 'data'), ('data', 'zero1')):
    _, state = programs[first].run(programs[first].new_state(), 2)
    with manager.CheckpointManager(tmp_path / first) as checkpoints:
      checkpoints.save(2, state)
    checkpoints = manager.CheckpointManager(tmp_path / first)
    restored = checkpoints.restore(2, programs[then].abstract)
    measured, _ = programs[then].run(restored, 2)
    np.testing.assert_allclose(measured, runs['data'][0][2:], rtol=1e-6)


def test_accumulated_gradients_give_the_same_losses(runs):
  program = Program(MESHES['zero1'], num_microbatches=2)
  measured, _ = program.run(program.new_state(), 4)
  np.testing.assert_allclose(measured, runs['data'][0], rtol=1e-5)


def test_the_means_of_adafactor_follow_the_part_that_is_updated():
  optimizer = optimizers.adafactor(SCHEDULE, momentum=0.9, min_dim_size_to_factor=64)
  whole, divided = (
    sharding.bytes_per_device(abstract_of(MESHES[name], optimizer).opt_state)
    for name in ('data', 'zero1')
  )
  # Of either matrix the momentum, and the means along the axis that is kept whole.
  assert whole - divided == 4 * (LARGE + 2 * 384) * 7 // 8
