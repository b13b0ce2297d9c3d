"""T5X's checkpoints, in every form it wrote them in: parameters, Adafactor's state, damage."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import t5x_writing
from etils import epath
from flax import serialization
from known_state import CONFIG, GRADIENTS, PARAMS, optax_slots

from t5x_lite import errors, sharding
from t5x_lite.checkpoints import foreign, layout, origins, t5x, t5x_arrays
from t5x_lite.models import encoder_decoder
from t5x_lite.training import state as training_state

STEP = 7


def open_checkpoint(path):
  assert t5x.is_checkpoint(epath.Path(path))
  return t5x.open_checkpoint(epath.Path(path))


def restore(weights, config):
  """Returns (model, parameters) of opened weights, sharded."""
  model = encoder_decoder.T5(config)
  mesh_config = sharding.fsdp_tensor()
  abstract = training_state.abstract_params(
    model, sharding.make_mesh(mesh_config), mesh_config.rules
  )
  return model, weights.restore_params(abstract)


@pytest.fixture
def tiny_file(shared_data):
  """A checkpoint that T5X wrote itself."""
  return shared_data / 'checkpoints' / 't5x_tiny' / 'test_t5_tiny.checkpoint_0'


@pytest.mark.parametrize('scan_layers', [False, True])
def test_the_logits_are_those_of_t5x(tiny_file, scan_layers):
  weights = open_checkpoint(tiny_file)
  assert weights.model is None and weights.step == 0
  config = dataclasses.replace(
    foreign.model_of(weights.shapes), dtype='float32', scan_layers=scan_layers
  )
  model, params = restore(weights, config)
  expected = np.load(tiny_file.parent / 't5x_tiny_fp32.npz')
  batch = {name: expected[name] for name in expected if name.endswith('_tokens')}
  with jax.default_matmul_precision('highest'):
    logits = np.asarray(jax.jit(model.apply)({'params': params}, batch))
  counted = batch['decoder_target_tokens'] > 0
  np.testing.assert_allclose(logits[counted], expected['logits'][counted], rtol=0, atol=5e-6)


def test_the_second_moments_that_t5x_kept_are_read_and_its_placeholders_are_not(tiny_file):
  weights = open_checkpoint(tiny_file)
  states = serialization.msgpack_restore(tiny_file.read_bytes())['optimizer']['state']
  states = layout.flatten(states['param_states'])
  expected = {
    f'v/{name.removesuffix("/v")}': array for name, array in states.items() if name.endswith('/v')
  }
  assert {name.removeprefix('v/') for name in expected} == set(weights.shapes)
  assert weights.slots == {name: array.shape for name, array in expected.items()}
  for name, array in expected.items():
    np.testing.assert_array_equal(weights.read(name), array, strict=True)


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('write', t5x_writing.WRITERS)
def test_every_bit_of_every_format_is_read(tmp_path, write, scanned):
  params, gradients = PARAMS, GRADIENTS
  if scanned:
    params, gradients = (
      t5x_writing.with_a_table_in_every_layer(tree) for tree in (params, gradients)
    )
  state = t5x_writing.train_state(params, gradients, STEP, CONFIG, scanned=scanned)
  weights = open_checkpoint(write(state, tmp_path))
  assert weights.step == STEP
  assert weights.shapes == {name: array.shape for name, array in params.items()}
  for name, array in params.items():
    np.testing.assert_array_equal(weights.read(name), array, strict=True)
  slots = optax_slots(gradients)
  assert any(name.startswith('v_row/') for name in slots)
  assert weights.slots == {name: array.shape for name, array in slots.items()}
  for name, array in slots.items():
    np.testing.assert_array_equal(weights.read(name), array, strict=True)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_an_array_that_holds_all_layers_is_read_once(tmp_path, monkeypatch, scan_layers):
  reads = []
  read_stored = t5x_arrays._read_stored
  monkeypatch.setattr(
    t5x_arrays, '_read_stored', lambda store, path: reads.append(path) or read_stored(store, path)
  )
  state = t5x_writing.train_state(PARAMS, GRADIENTS, STEP, CONFIG, scanned=True)
  weights = open_checkpoint(t5x_writing.native(state, tmp_path))
  assert not reads
  _, restored = restore(weights, dataclasses.replace(CONFIG, scan_layers=scan_layers))
  assert len(reads) == len(set(reads)) == len(jax.tree.leaves(state['target']))
  if not scan_layers:
    for name, array in layout.flatten(restored).items():
      np.testing.assert_array_equal(array, PARAMS[name])


def test_parameters_alone_are_a_checkpoint_too(tmp_path):
  for tree in (
    {'version': 3, 'optimizer': {'target': PARAMS, 'state': {'step': np.int32(3)}}},
    {'target': PARAMS, 'flax_mutables': {}},
    PARAMS,
  ):
    tree = layout.unflatten(layout.flatten(tree))
    file = tmp_path / 'checkpoint'
    file.write_bytes(serialization.msgpack_serialize(tree))
    weights = open_checkpoint(file)
    assert weights.shapes == {name: array.shape for name, array in PARAMS.items()}
    assert weights.slots == {}
    assert weights.step == (3 if 'optimizer' in tree else None)


def test_the_state_of_another_optimizer_gives_no_slots(tmp_path):
  state = t5x_writing.train_state(PARAMS, GRADIENTS, STEP, CONFIG)
  state['state']['param_states'] = {'0': {'v_row': state['target'], 'count': np.int32(4)}, '1': {}}
  weights = open_checkpoint(t5x_writing.msgpack_file(state, tmp_path))
  assert weights.slots == {} and weights.step == STEP


def test_a_first_moment_is_read_too(tmp_path):
  state = t5x_writing.train_state(PARAMS, GRADIENTS, STEP, CONFIG, scanned=True)
  states = state['state']['param_states']['encoder']['encoder']['mlp']['wo']['kernel']
  states['m'] = state['target']['encoder']['encoder']['mlp']['wo']['kernel']
  weights = open_checkpoint(t5x_writing.msgpack_file(state, tmp_path))
  for layer in range(CONFIG.num_encoder_layers):
    name = f'encoder/layers_{layer}/mlp/wo/kernel'
    np.testing.assert_array_equal(weights.read(f'm/{name}'), PARAMS[name])


def test_arrays_keep_their_dtype(tmp_path):
  halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in PARAMS.items()}
  state = t5x_writing.train_state(halves, GRADIENTS, STEP, CONFIG)
  for write in t5x_writing.WRITERS:
    weights = open_checkpoint(write(state, tmp_path / write.__name__))
    for name in ('token_embedder/embedding', 'encoder/encoder_norm/scale'):
      np.testing.assert_array_equal(weights.read(name), halves[name], strict=True)


def test_the_bits_that_version_2_kept_as_integers_are_read_as_bfloat16(tmp_path):
  halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in PARAMS.items()}
  bits = {name: array.view(np.uint16) for name, array in halves.items()}
  state = t5x_writing.train_state(bits, GRADIENTS, STEP, CONFIG)
  weights = open_checkpoint(t5x_writing.native(state, tmp_path))
  name = 'decoder/logits_dense/kernel'
  np.testing.assert_array_equal(weights.read(name), halves[name], strict=True)


def test_an_array_that_flax_divides_is_put_together(tmp_path, monkeypatch):
  monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', 1000)
  state = t5x_writing.train_state(PARAMS, GRADIENTS, STEP, CONFIG)
  file = t5x_writing.msgpack_file(state, tmp_path)
  assert b'__msgpack_chunked_array__' in pathlib.Path(file).read_bytes()
  weights = open_checkpoint(file)
  assert weights.shapes == {name: array.shape for name, array in PARAMS.items()}
  for name, array in PARAMS.items():
    np.testing.assert_array_equal(weights.read(name), array, strict=True)


def test_the_newest_complete_checkpoint_of_a_run_is_taken(tmp_path):
  for step in (9, 10):
    state = t5x_writing.train_state(PARAMS, GRADIENTS, step, CONFIG)
    t5x_writing.native(state, tmp_path, folder_name=f'checkpoint_{step}')
  (tmp_path / 'checkpoint_11.tmp-1667').mkdir()
  (tmp_path / 'checkpoint_12').mkdir()
  weights = open_checkpoint(tmp_path)
  assert weights.step == 10 and weights.path == str(tmp_path / 'checkpoint_10')
  assert open_checkpoint(tmp_path / 'checkpoint_9').step == 9
  assert open_checkpoint(tmp_path / 'checkpoint_9' / 'checkpoint').step == 9


def test_what_t5x_did_not_write_is_told_apart(tmp_path):
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-10"\n')
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'nothing').touch()
  for path in (tmp_path, *tmp_path.iterdir(), tmp_path / 'nowhere'):
    assert not t5x.is_checkpoint(epath.Path(path))
    with pytest.raises(errors.UserError, match='there is no checkpoint of T5X at'):
      t5x.open_checkpoint(epath.Path(path))


def message(path):
  """The one line that is said of a checkpoint when it is opened and all of it is read."""
  with pytest.raises(errors.UserError) as raised:
    weights = t5x.open_checkpoint(epath.Path(path))
    for name in weights.shapes:
      weights.read(name)
  (line,) = str(raised.value).splitlines()
  return line


@pytest.fixture
def state():
  return t5x_writing.train_state(PARAMS, GRADIENTS, STEP, CONFIG)


def test_a_file_that_is_cut_short_is_refused_wherever_it_ends(state, tmp_path):
  file = pathlib.Path(t5x_writing.msgpack_file(state, tmp_path))
  content = file.read_bytes()
  for size in (60, 5000, len(content) // 2, len(content) - 1):
    file.write_bytes(content[:size])
    assert f'{file} is damaged, cut short or missing: copy it again' in message(file)
  file.write_bytes(content + b'\x00')
  assert 'there is more in it than one tree' in message(file)


def test_bytes_that_were_changed_are_refused_or_read(state, tmp_path):
  file = pathlib.Path(t5x_writing.msgpack_file({'target': state['target']}, tmp_path))
  content = file.read_bytes()
  # Where names, shapes and dtypes are: around what the file says of its arrays.
  places = [match.start() for match in re.finditer(b'kernel|float32|scale', content)]
  rng = np.random.default_rng(0)
  refused = 0
  for place in rng.choice(places, 60):
    changed = bytearray(content)
    changed[place + rng.integers(-8, 12)] = rng.integers(256)
    file.write_bytes(changed)
    try:
      weights = t5x.open_checkpoint(epath.Path(file))
      for name in weights.shapes:
        weights.read(name)
    except errors.UserError as error:
      assert '\n' not in str(error)
      refused += 1
  assert refused


def test_an_array_that_is_not_there_is_named(state, tmp_path):
  folder = pathlib.Path(t5x_writing.native(state, tmp_path))
  missing = folder / 'target.encoder.layers_1.mlp.wo.kernel'
  shutil.rmtree(missing)
  assert f'{missing} is damaged, cut short or missing' in message(folder)


def test_a_part_of_an_array_that_is_lost_or_damaged_is_not_read_as_zeros(state, tmp_path):
  folder = pathlib.Path(t5x_writing.native(state, tmp_path))
  part = folder / 'target.token_embedder.embedding' / '1.0'
  content = part.read_bytes()
  part.write_bytes(content[:50])
  assert f'{part.parent} is damaged, cut short or missing' in message(folder)
  part.unlink()
  assert f'{part.parent} is damaged, cut short or missing' in message(folder)


def test_damage_to_a_database_or_its_list_is_told(state, tmp_path):
  folder = pathlib.Path(t5x_writing.orbax_ocdbt(state, tmp_path)) / 'state'
  listed = json.loads((folder / '_METADATA').read_text())
  (folder / '_METADATA').write_text('{')
  assert f'{folder / "_METADATA"} is damaged' in message(folder)
  (folder / '_METADATA').write_text('{"tree_metadata": {"x": {}}}')
  assert f'{folder / "_METADATA"} is damaged' in message(folder)
  (folder / '_METADATA').write_text(json.dumps(listed))
  shutil.rmtree(folder / 'ocdbt.process_0' / 'd')
  assert 'is damaged, cut short or missing' in message(folder)
  (folder / 'manifest.ocdbt').unlink()
  assert 'is damaged, cut short or missing' in message(folder)


def test_another_model_or_version_is_refused(state, tmp_path):
  other = {'version': 3, 'optimizer': {'target': {'dense': {'kernel': np.ones((2, 2))}}}}
  file = tmp_path / 'checkpoint'
  file.write_bytes(serialization.msgpack_serialize(other))
  assert 'holds no T5 of T5X: there is no target/token_embedder/embedding' in message(file)
  file.write_bytes(serialization.msgpack_serialize({'version': 1, 'optimizer': state}))
  assert 'has version 1 of the format; T5X has 2 and 3' in message(file)


def test_a_place_in_the_cloud_is_given_to_tensorstore_as_it_is():
  import tensorstore

  for in_database in (False, True):
    kvstore = t5x_arrays._kvstore(epath.Path('gs://bucket/run'), 'target.a', in_database)
    url = tensorstore.KvStore.Spec(kvstore).url
    assert 'gs://bucket/run/' in url and 'target.a' in url


def test_a_checkpoint_is_known_by_its_files_wherever_the_path_leads(tmp_path):
  state = t5x_writing.train_state(PARAMS, GRADIENTS, 7, CONFIG)
  file = t5x_writing.msgpack_file(state, tmp_path / 'file')
  native = t5x_writing.native(state, tmp_path / 'run')
  orbax = t5x_writing.orbax_ocdbt(state, tmp_path / 'orbax')
  for path, found in (
    (file, file),
    (native, native),
    (tmp_path / 'run', native),
    (orbax, orbax / 'state'),
    (tmp_path / 'orbax', orbax / 'state'),
  ):
    assert origins.open_origin(path).path == str(found)
