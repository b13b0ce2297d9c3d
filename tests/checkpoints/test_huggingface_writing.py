"""Folders written for Hugging Face: the same arrays to the bit, and nothing left where it fails."""

import dataclasses
import itertools
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tiny
from huggingface_files import assert_same_weights

from t5x_lite import errors, sharding
from t5x_lite.checkpoints import huggingface, manager, origins
from t5x_lite.models import encoder_decoder
from t5x_lite.training import state as training_state


def abstract_params(config):
  mesh_config = sharding.data_parallel()
  mesh = sharding.make_mesh(mesh_config)
  return training_state.abstract_params(encoder_decoder.T5(config), mesh, mesh_config.rules)


def checkpoint(folder, config, params):
  """The only checkpoint of a new run, opened."""
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    checkpoints.save(7, {'params': params}, metadata={'model': dataclasses.asdict(config)})
  return origins.open_origin(folder)


@pytest.fixture
def run(tmp_path):
  """A checkpoint of random parameters with stacked layers, two of which are alike in nothing."""
  config = tiny.config(num_encoder_layers=2, num_decoder_layers=3)
  return checkpoint(tmp_path / 'run', config, tiny.params(config))


@pytest.mark.parametrize('scan_layers', [False, True])
@pytest.mark.parametrize('name', ['t5_1_0', 't5_1_1'])
def test_what_came_from_hugging_face_goes_back_to_the_bit(shared_data, tmp_path, name, scan_layers):
  original = shared_data / 'golden' / 'hf_tiny' / name
  weights = huggingface.open_folder(original)
  config = dataclasses.replace(weights.model, scan_layers=scan_layers)
  params = weights.restore_params(abstract_params(config))
  folder = tmp_path / 'folder'
  huggingface.write_folder(checkpoint(tmp_path / 'run', config, params), folder)

  assert_same_weights(folder, original)
  assert huggingface.open_folder(folder).model == weights.model
  settings = json.loads((folder / huggingface.CONFIG).read_text())
  theirs = json.loads((original / huggingface.CONFIG).read_text())
  # Since transformers 5 these say of an untied model that it is tied, and that it is not scaled.
  assert settings.pop('tie_word_embeddings') == theirs.pop('scale_decoder_outputs')
  assert {key: theirs[key] for key in settings} == settings


@pytest.mark.parametrize('group_bytes', [1, 1500, 2**20])
def test_each_array_is_read_once_and_small_ones_together(run, tmp_path, monkeypatch, group_bytes):
  reads = []
  read = manager.CheckpointManager.read_params
  monkeypatch.setattr(origins, '_GROUP_BYTES', group_bytes)
  monkeypatch.setattr(
    manager.CheckpointManager,
    'read_params',
    lambda self, step, dtypes: reads.append(list(dtypes)) or read(self, step, dtypes),
  )
  huggingface.write_folder(run, tmp_path / 'folder')
  saved = run.manager.saved_params(7)
  assert sorted(itertools.chain(*reads)) == sorted(saved)
  sizes = [sum(4 * saved[name].size for name in names) for names in reads]
  assert all(
    len(names) == 1 or size <= group_bytes for names, size in zip(reads, sizes, strict=True)
  )
  assert (len(reads) == 1) == (group_bytes == 2**20)
  assert (len(reads) == len(saved)) == (group_bytes == 1)
  layers = [run.read(f'decoder/layers_{i}/mlp/wi_0/kernel') for i in range(3)]
  assert len({layer.tobytes() for layer in layers}) == 3


def test_a_large_model_is_written_in_shards_that_the_index_finds(run, tmp_path, monkeypatch):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  huggingface.write_folder(run, whole)
  monkeypatch.setattr(huggingface, 'SHARD_BYTES', 2000)
  huggingface.write_folder(run, parts)
  files = sorted(file.name for file in parts.glob('*.safetensors'))
  assert len(files) > 2 and files[0] == f'model-00001-of-{len(files):05d}.safetensors'
  index = json.loads((parts / huggingface.INDEX).read_text())
  expected = safetensors.numpy.load_file(whole / huggingface.WEIGHTS)
  assert index['weight_map'].keys() == expected.keys()
  assert index['metadata']['total_size'] == sum(x.nbytes for x in expected.values())
  weights = huggingface.open_folder(parts)
  for name in run.shapes:
    np.testing.assert_array_equal(weights.read(name), run.read(name), strict=True)


def test_weights_are_rounded_where_asked(run, tmp_path):
  huggingface.write_folder(run, tmp_path / 'folder', dtype='bfloat16')
  weights = huggingface.open_folder(tmp_path / 'folder')
  kernel = weights.read('encoder/layers_1/mlp/wo/kernel')
  assert kernel.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(
    kernel, run.read('encoder/layers_1/mlp/wo/kernel').astype(ml_dtypes.bfloat16)
  )
  assert json.loads((tmp_path / 'folder' / huggingface.CONFIG).read_text())['dtype'] == 'bfloat16'


def test_a_folder_with_something_in_it_is_left_alone(run, tmp_path):
  folder = tmp_path / 'folder'
  folder.mkdir()
  (folder / 'mine').write_text('mine')
  with pytest.raises(errors.UserError, match='folder is there already: remove it, or name another'):
    huggingface.write_folder(run, folder)
  assert [file.name for file in folder.iterdir()] == ['mine']


def test_a_model_that_transformers_do_not_have_is_refused(tmp_path):
  config = tiny.config(mlp_activations=('relu', 'relu'))
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_params(config))
  with pytest.raises(errors.UserError, match=r"no T5 with mlp_activations=\('relu', 'relu'\)"):
    huggingface.write_folder(checkpoint(tmp_path / 'run', config, params), tmp_path / 'folder')


@pytest.mark.parametrize(
  'error',
  [
    OSError(28, 'No space left on device'),
    safetensors.SafetensorError('No space left on device'),
    KeyboardInterrupt(),
  ],
)
def test_what_could_not_be_finished_leaves_nothing_behind(run, tmp_path, monkeypatch, error):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(huggingface.safetensors.numpy, 'save_file', fail)
  with pytest.raises((errors.UserError, KeyboardInterrupt)) as raised:
    huggingface.write_folder(run, tmp_path / 'there' / 'folder')
  if not isinstance(error, KeyboardInterrupt):
    assert str(raised.value).endswith('No space left on device')
  assert not list((tmp_path / 'there').iterdir())
