"""Checkpoints: what is saved comes back, on any mesh, and nothing half written ever does."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5x_lite import errors
from t5x_lite.checkpoints import manager as checkpoints
from t5x_lite.checkpoints import storage
from t5x_lite.training import optimizers
from t5x_lite.training import state as train_state


def _params(*, scanned, num_layers=3, mlp_dim=16, seed=0):
  """An encoder of a few layers and an embedding, big enough for Adafactor to factor."""
  rng = np.random.default_rng(seed)
  layers = [
    {
      'mlp': {'wi': {'kernel': rng.normal(size=(8, mlp_dim)).astype(np.float32)}},
      'norm': {'scale': rng.normal(size=(8,)).astype(np.float32)},
    }
    for _ in range(num_layers)
  ]
  if scanned:
    encoder = {'layers': jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}
  else:
    encoder = {f'layers_{i}': layer for i, layer in enumerate(layers)}
  embedding = rng.normal(size=(32, 8)).astype(np.float32)
  return jax.tree.map(jnp.asarray, {'encoder': encoder, 'token_embedder': {'embedding': embedding}})


def _state(step=7, *, optimizer=None, **kwargs):
  return _state_of(_params(**({'scanned': False} | kwargs)), step, optimizer)


def _state_of(params, step=7, optimizer=None):
  optimizer = optimizer or optax.adamw(1e-3)
  return train_state.TrainState(jnp.asarray(step), params, optimizer.init(params))


def _abstract(state, sharding=None):
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
  )


def _assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def _saved(directory, state=None, step=7, **kwargs):
  manager = checkpoints.CheckpointManager(directory, **kwargs)
  manager.save(step, _state() if state is None else state)
  manager.wait()
  return manager


@pytest.fixture
def directory(tmp_path):
  return tmp_path / 'run' / 'checkpoints'


# What is saved comes back.


def test_state_batches_and_metadata_come_back(directory):
  state = _state()
  with checkpoints.CheckpointManager(directory) as manager:
    assert manager.save(
      7,
      state,
      batches_state={'0-of-1': b'\x00position'},
      metadata={'gin': 'a = 1\n', 'model': {'emb_dim': 8}},
      metrics={'accuracy': np.float32(0.5), 'loss': math.nan},
    )
  manager = checkpoints.CheckpointManager(directory)
  _assert_equal(manager.restore(7, _abstract(state)), state)
  _assert_equal(manager.restore_params(7, _abstract(state.params)), state.params)
  assert manager.batches_state(7, ['0-of-1']) == {'0-of-1': b'\x00position'}
  assert manager.metadata(7) == {'gin': 'a = 1\n', 'model': {'emb_dim': 8}}
  assert manager.metrics(7) == {'accuracy': 0.5, 'loss': None}


def test_step_zero_is_a_checkpoint_and_none_is_none(directory):
  manager = checkpoints.CheckpointManager(directory)
  assert manager.steps() == [] and manager.latest_step() is None
  manager.save(0, _state(0))
  manager.wait()
  assert manager.steps() == [0] and manager.latest_step() == 0
  assert manager.streams(0) == [] and manager.metadata(0) == {}


def test_numpy_states_are_saved_and_restored_as_numpy(directory):
  state = jax.tree.map(np.array, _state())
  manager = checkpoints.CheckpointManager(directory)
  manager.save(7, state)
  before = state.params['token_embedder']['embedding'].copy()
  state.params['token_embedder']['embedding'][:] = -1  # The save has its own copy.
  manager.wait()
  restored = manager.restore(7, state)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))
  np.testing.assert_array_equal(restored.params['token_embedder']['embedding'], before)


def test_arrays_come_back_in_the_dtype_asked_for(directory):
  state = _state()
  manager = _saved(directory, state)
  wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), state.params)
  restored = manager.restore_params(7, wanted)
  _assert_equal(restored, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params))
  assert {leaf.dtype for leaf in jax.tree.leaves(restored)} == {jnp.dtype(jnp.bfloat16)}


def test_optimizers_without_state_are_saved(directory):
  state = _state(optimizer=optax.identity())
  _assert_equal(_saved(directory, state).restore(7, _abstract(state)), state)


# Meshes.


def _mesh(**axes):
  return jax.make_mesh(
    tuple(axes.values()),
    tuple(axes),
    axis_types=(AxisType.Auto,) * len(axes),
    devices=jax.devices()[: math.prod(axes.values())],
  )


def _shardings(mesh, state):
  """Kernels over (fsdp, tensor) on their last two axes; vectors, even stacked, replicated."""

  def sharding(leaf):
    is_kernel = leaf.ndim >= 2 and leaf.shape[-2] % 8 == 0
    spec = (None,) * (leaf.ndim - 2) + ('fsdp', 'tensor') if is_kernel else ()
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(sharding, state)


def _placed(mesh, state):
  return jax.device_put(state, _shardings(mesh, state))


def _abstract_on(mesh, state):
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    state,
    _shardings(mesh, state),
  )


@pytest.mark.parametrize(
  ('saved_on', 'restored_on'),
  [
    ({'data': 1, 'fsdp': 1, 'tensor': 1}, {'data': 2, 'fsdp': 2, 'tensor': 2}),
    ({'data': 8, 'fsdp': 1, 'tensor': 1}, {'data': 2, 'fsdp': 2, 'tensor': 2}),
    ({'data': 2, 'fsdp': 2, 'tensor': 2}, {'data': 1, 'fsdp': 8, 'tensor': 1}),
    ({'data': 2, 'fsdp': 2, 'tensor': 2}, {'data': 1, 'fsdp': 1, 'tensor': 1}),
  ],
)
def test_a_checkpoint_of_one_mesh_restores_on_another(directory, saved_on, restored_on):
  state = _state()
  manager = _saved(directory, _placed(_mesh(**saved_on), state))
  wanted = _abstract_on(_mesh(**restored_on), state)
  restored = manager.restore(7, wanted)
  _assert_equal(restored, state)
  jax.tree.map(lambda leaf, want: _assert_placed(leaf, want.sharding), restored, wanted)


def _assert_placed(leaf, sharding):
  assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


# Layers scanned or apart.


@pytest.mark.parametrize(
  'optimizer',
  [optimizers.adafactor(1e-3, min_dim_size_to_factor=8), optax.adamw(1e-3)],
  ids=['adafactor', 'adamw'],
)
@pytest.mark.parametrize('scanned', [True, False])
def test_layers_scanned_or_apart_restore_into_the_other_form(directory, scanned, optimizer):
  state = _updated(optimizer, _state(scanned=scanned, optimizer=optimizer))
  expected = _updated(optimizer, _state(scanned=not scanned, optimizer=optimizer))
  manager = _saved(directory, state)
  wanted = _abstract_on(_mesh(data=2, fsdp=2, tensor=2), expected)
  restored = manager.restore(7, wanted)
  jax.tree.map(lambda leaf, want: _assert_placed(leaf, want.sharding), restored, wanted)
  _assert_equal(restored.params, expected.params)
  # The two states were computed apart, by sums over differently shaped arrays.
  jax.tree.map(
    lambda leaf, other: np.testing.assert_allclose(leaf, other, rtol=1e-6),
    restored.opt_state,
    expected.opt_state,
  )


def _updated(optimizer, state):
  """The state after the optimizer has seen gradients that differ in every entry."""
  _, opt_state = optimizer.update(state.params, state.opt_state, state.params)
  return state.replace(opt_state=opt_state)


def test_parameters_alone_restore_into_the_other_form(directory):
  manager = _saved(directory, _state(scanned=True))
  apart = _params(scanned=False)
  _assert_equal(manager.restore_params(7, _abstract(apart)), apart)


# Checkpoints of another model.


def test_a_checkpoint_of_another_model_says_which_parameters_differ(directory):
  manager = _saved(directory)
  params = _params(scanned=False, mlp_dim=24)
  params['encoder']['layers_0']['mlp']['wi_0'] = params['encoder']['layers_0']['mlp'].pop('wi')
  with pytest.raises(errors.UserError) as caught:
    manager.restore(7, _abstract(_state_of(params)))
  message = str(caught.value)
  assert f'checkpoint {directory}/7 does not fit this model' in message
  assert 'it lacks encoder/layers_0/mlp/wi_0/kernel' in message
  assert 'this run has no encoder/layers_0/mlp/wi/kernel' in message
  assert 'encoder/layers_1/mlp/wi/kernel [8, 16] against [8, 24]' in message
  assert '\n' not in message and 'opt_state' not in message


def test_a_checkpoint_of_another_optimizer_is_refused_but_gives_its_parameters(directory):
  manager = _saved(directory)
  adafactor = _state(optimizer=optax.adafactor(1e-3))
  with pytest.raises(errors.UserError, match='does not fit this optimizer: it lacks opt_state/'):
    manager.restore(7, _abstract(adafactor))
  manager.restore_params(7, _abstract(adafactor.params))


def test_a_missing_step_is_answered_with_those_there_are(directory):
  manager = _saved(directory)
  with pytest.raises(errors.UserError, match='no checkpoint of step 8 in .*: there are 7'):
    manager.restore(8, _abstract(_state()))
  with pytest.raises(errors.UserError, match='no checkpoint of step 8'):
    manager.metadata(8)


# Which checkpoints are kept.


def test_unwanted_checkpoints_are_deleted_from_disk(directory):
  state = {'params': {'w': np.zeros(2)}, 'step': np.int32(0)}
  manager = checkpoints.CheckpointManager(
    directory, keep_last=1, keep_every=4, keep_best=1, best_metric='accuracy'
  )
  for step, accuracy in enumerate([0.1, 0.9, math.nan, 0.3, 0.2, 0.1, 0.0]):
    manager.save(step, state, metrics={'accuracy': accuracy})
  manager.wait()
  assert manager.steps() == [0, 1, 4, 6]
  assert sorted(os.listdir(directory)) == ['0', '1', '4', '6']


def test_contradictory_rules_are_refused():
  for rules in (dict(keep_last=0), dict(keep_best=1), dict(best_mode='best')):
    with pytest.raises(errors.UserError):
      checkpoints.CheckpointManager('unused', **rules)


def test_saving_a_step_again_keeps_the_complete_checkpoint(directory):
  manager = _saved(directory)
  before = (directory / '7' / '_CHECKPOINT_METADATA').read_bytes()
  assert manager.save(7, _state(scanned=True)) is False
  manager.wait()
  assert (directory / '7' / '_CHECKPOINT_METADATA').read_bytes() == before


# In the background.


@pytest.mark.parametrize('devices', [1, 8])
def test_the_state_may_be_donated_as_soon_as_save_returns(directory, devices):
  mesh = _mesh(data=1, fsdp=devices, tensor=1)
  sharding = NamedSharding(mesh, PartitionSpec('fsdp'))
  values = np.arange(2**22, dtype=np.float32)
  train_step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
  manager = checkpoints.CheckpointManager(directory, keep_last=None)
  for step in range(3):
    state = {'params': {'w': jax.device_put(values + step, sharding)}}
    manager.save(step, state)
    for _ in range(3):
      state = train_step(state)
    jax.block_until_ready(state)
  manager.wait()
  for step in range(3):
    restored = manager.restore_params(step, {'w': values})
    np.testing.assert_array_equal(restored['w'], values + step)


@pytest.mark.parametrize('surfaces_at', ['wait', 'close'])
def test_a_failure_in_the_background_surfaces_as_one_readable_line(
  directory, monkeypatch, surfaces_at
):
  manager = _saved(directory)
  with monkeypatch.context() as patch:
    patch.setattr(storage.RunFiles, '_write', _no_space)
    manager.save(8, _state())
    with pytest.raises(errors.UserError) as caught:
      getattr(manager, surfaces_at)()
  assert f'checkpoint {directory}/8 could not be written' in str(caught.value)
  assert 'No space left on device' in str(caught.value)
  assert '\n' not in str(caught.value)
  assert os.listdir(directory) == ['7'] and manager.steps() == [7]
  # The manager goes on to work once there is space again.
  assert manager.save(8, _state())
  manager.close()
  assert manager.steps() == [7, 8]


def test_a_run_that_goes_on_after_a_failure_is_told_of_it_once(directory, monkeypatch):
  manager = _saved(directory)
  assert manager.failures() == []
  with monkeypatch.context() as patch:
    patch.setattr(storage.RunFiles, '_write', _no_space)
    manager.save(8, _state())
    while not (failures := manager.failures()):
      time.sleep(0.01)
  assert [f'checkpoint {directory}/8 could not be written' in str(each) for each in failures]
  manager.save(9, _state())
  manager.wait()  # What could be written makes up for it.
  assert manager.steps() == [7, 9] and manager.failures() == []


async def _no_space(*unused):
  raise OSError(28, 'No space left on device')


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  manager = checkpoints.CheckpointManager(tmp_path / 'file' / 'checkpoints')
  manager.save(1, _state())
  with pytest.raises(errors.UserError, match='file/checkpoints/1 could not be written'):
    manager.wait()


# Killed and damaged.

_KILLED_IN_A_SAVE = """
import os, signal, time
import numpy as np
from t5x_lite.checkpoints import manager as checkpoints
from t5x_lite.checkpoints import storage

manager = checkpoints.CheckpointManager({directory!r})
manager.save(1, {{'params': {{'w': np.arange(1000.0)}}}}, batches_state={{'0-of-1': b'one'}})
manager.wait()

async def never_ends(self, directory, *unused):
  folder = await directory.await_creation()
  (folder / 'metadata.json').write_text('')
  print('saving', flush=True)
  time.sleep(600)

storage.RunFiles._write = never_ends
manager.save(2, {{'params': {{'w': np.zeros(1000)}}}}, batches_state={{'0-of-1': b'two'}})
time.sleep(600)
"""


def test_a_save_killed_half_way_harms_nothing_and_is_cleaned_up(directory):
  script = textwrap.dedent(_KILLED_IN_A_SAVE.format(directory=str(directory)))
  with subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True) as child:
    assert child.stdout.readline() == 'saving\n'
    child.send_signal(signal.SIGKILL)
  assert len(os.listdir(directory)) == 2  # The complete one, and the rest of the other.

  manager = checkpoints.CheckpointManager(directory)
  assert manager.steps() == [1] and manager.latest_step() == 1
  assert manager.batches_state(1, ['0-of-1']) == {'0-of-1': b'one'}
  expected = np.arange(1000.0)
  np.testing.assert_array_equal(manager.restore_params(1, {'w': expected})['w'], expected)
  manager.save(2, {'params': {'w': expected}})
  manager.wait()
  assert sorted(os.listdir(directory)) == ['1', '2']


def test_readers_leave_the_unfinished_save_of_a_running_run_alone(directory):
  manager = _saved(directory)
  unfinished = directory / '8.orbax-checkpoint-tmp'
  unfinished.mkdir()
  reader, step = checkpoints.open_checkpoint(directory)
  reader.restore(step, _abstract(_state()))
  reader.close()
  assert unfinished.is_dir()
  del manager


def test_an_empty_folder_of_a_step_is_no_checkpoint_and_is_replaced(directory):
  (directory / '3').mkdir(parents=True)
  manager = checkpoints.CheckpointManager(directory)
  assert manager.steps() == []
  manager.save(3, _state(3))
  manager.wait()
  assert manager.steps() == [3]


# Paths to a checkpoint.


@pytest.mark.parametrize('path', ['run', 'run/checkpoints', 'run/checkpoints/8'])
def test_a_run_its_checkpoints_or_one_step_can_be_opened(directory, tmp_path, path):
  manager = _saved(directory)
  manager.save(8, _state(8))
  manager.wait()
  opened, step = checkpoints.open_checkpoint(tmp_path / path)
  assert (opened.directory, step) == (manager.directory, 8)


def test_an_older_step_can_be_opened(directory):
  _saved(directory)
  _saved(directory, step=8)
  assert checkpoints.open_checkpoint(str(directory / '7'))[1] == 7


def test_a_relative_path_can_be_opened(directory, monkeypatch):
  _saved(directory)
  monkeypatch.chdir(directory.parent)
  manager, step = checkpoints.open_checkpoint('checkpoints')
  _assert_equal(manager.restore(step, _abstract(_state())), _state())


def test_paths_without_a_checkpoint_are_answered_clearly(directory, tmp_path):
  for path, message in (
    (tmp_path / 'absent', 'there is no such folder'),
    (tmp_path, 'no complete checkpoint in'),
    (directory / '9', 'there is no such folder'),
  ):
    with pytest.raises(errors.UserError, match=message):
      checkpoints.open_checkpoint(path)
  _saved(directory)
  (directory / '8').mkdir()
  with pytest.raises(errors.UserError, match='8 is no complete checkpoint.* its folder has 7'):
    checkpoints.open_checkpoint(directory / '8')
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='it is a file'):
    checkpoints.open_checkpoint(tmp_path / 'file')


# Several hosts.


def test_a_host_finds_the_streams_that_it_reads_whoever_saved_them(directory):
  positions = {'0-of-2': b'first', '1-of-2': b'second'}
  with checkpoints.CheckpointManager(directory) as manager:
    manager.save(7, _state(), batches_state=positions)
  assert manager.streams(7) == ['0-of-2', '1-of-2']
  assert manager.batches_state(7, ['1-of-2']) == {'1-of-2': b'second'}
  (directory / '7' / 'run' / 'batches_state-1-of-2').unlink()
  with pytest.raises(errors.UserError, match='cannot be read, it is damaged'):
    manager.batches_state(7, positions)


def test_what_describes_a_run_is_readable_without_us(directory):
  manager = checkpoints.CheckpointManager(directory)
  manager.save(7, _state(), metadata={'gin': 'x'}, metrics={'accuracy': 0.5})
  manager.close()
  assert json.loads((directory / '7' / 'run' / 'metadata.json').read_text()) == {'gin': 'x'}
  assert json.loads((directory / '7' / 'run' / 'metrics.json').read_text()) == {'accuracy': 0.5}
