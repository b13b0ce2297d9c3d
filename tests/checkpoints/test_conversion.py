"""Weights of other projects as runs: the same arrays, the same model, or no folder at all."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import seqio
from huggingface_files import assert_same_weights

from t5x_lite import errors
from t5x_lite.checkpoints import conversion, huggingface, manager, origins
from t5x_lite.data import vocabulary


@pytest.mark.parametrize('name', ['t5_1_0', 't5_1_1'])
def test_a_folder_of_hugging_face_goes_through_a_run_and_back_to_the_bit(
  shared_data, tmp_path, name
):
  original = shared_data / 'golden' / 'hf_tiny' / name
  weights = huggingface.open_folder(original)
  conversion.write_run(weights, weights.model, tmp_path / 'run')
  run = origins.open_origin(tmp_path / 'run')
  unscanned = dataclasses.replace(weights.model, scan_layers=False, dtype='float32')
  assert run.model == unscanned and run.step == 0
  huggingface.write_folder(run, tmp_path / 'folder')
  assert_same_weights(tmp_path / 'folder', original)


@pytest.fixture
def weights(tmp_path):
  """Of a tiny model, in bfloat16."""
  settings = {
    'model_type': 't5', 'vocab_size': 384, 'd_model': 8, 'num_heads': 2, 'd_kv': 4, 'd_ff': 16,
    'num_layers': 2, 'num_decoder_layers': 1, 'feed_forward_proj': 'gated-silu',
    'tie_word_embeddings': False,
  }  # fmt: skip
  return small_folder(tmp_path / 'theirs', settings)


def small_folder(folder, settings):
  """Writes random weights in bfloat16 for a configuration of theirs and opens the folder."""
  folder.mkdir()
  (folder / huggingface.CONFIG).write_text(json.dumps(settings))
  rng = np.random.default_rng(0)
  model = huggingface._model_config(folder / huggingface.CONFIG, output_is_there=True)
  widths = {
    'query': model.num_heads * model.head_dim,
    'out': model.emb_dim,
    'wi': model.mlp_dim,
    'wo': model.emb_dim,
    'logits_dense': model.vocab_size,
  }
  widths |= dict.fromkeys(('key', 'value'), widths['query'])
  widths |= dict.fromkeys(('wi_0', 'wi_1'), model.mlp_dim)
  arrays = {}
  for ours, (theirs, transposed) in huggingface.names(model).items():
    *_, module, kind = ours.split('/')
    if kind == 'scale':
      shape = (model.emb_dim,)
    elif kind == 'embedding':
      shape = (model.vocab_size, model.emb_dim)
    elif kind == 'rel_embedding':
      shape = (model.num_heads, model.relative_attention_num_buckets)
    else:
      inputs = {'out': widths['query'], 'wo': model.mlp_dim}.get(module, model.emb_dim)
      shape = (inputs, widths[module])
    array = rng.normal(size=shape[::-1] if transposed else shape)
    arrays[theirs] = array.astype(ml_dtypes.bfloat16)
  safetensors.numpy.save_file(arrays, folder / huggingface.WEIGHTS)
  return huggingface.open_folder(folder)


KINDS = {
  # What the published config.json say, but for the sizes.
  'flan_t5': {'model_type': 't5', 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
  'mt5': {'model_type': 'mt5', 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
  'ul2': {'model_type': 't5', 'feed_forward_proj': 'gated-silu', 'tie_word_embeddings': False},
  'byt5': {'model_type': 't5', 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False,
           'tokenizer_class': 'ByT5Tokenizer', 'num_decoder_layers': 1},
  't5': {'model_type': 't5'},  # Of 2019: neither the activation nor the tying is said.
}  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_every_published_kind_of_configuration_is_read_and_written(tmp_path, kind):
  shape = {'vocab_size': 32, 'd_model': 8, 'num_heads': 2, 'd_kv': 3, 'd_ff': 16, 'num_layers': 2}
  weights = small_folder(tmp_path / 'theirs', {**shape, **KINDS[kind]})
  model = weights.model
  expected = {
    't5': ('relu',), 'ul2': ('silu', 'linear')
  }.get(kind, ('gelu', 'linear'))  # fmt: skip
  assert model.mlp_activations == expected
  assert model.logits_via_embedding == (kind == 't5')
  assert (model.num_encoder_layers, model.num_decoder_layers) == (2, 1 if kind == 'byt5' else 2)
  conversion.write_run(weights, model, tmp_path / 'run')
  huggingface.write_folder(
    origins.open_origin(tmp_path / 'run'), tmp_path / 'again', dtype='bfloat16'
  )
  again = huggingface.open_folder(tmp_path / 'again')
  assert again.model == model
  for name in weights.shapes:
    np.testing.assert_array_equal(again.read(name), weights.read(name), strict=True)


def test_the_run_describes_itself(weights, tmp_path):
  conversion.write_run(
    weights, weights.model, tmp_path / 'run', vocabulary=seqio.ByteVocabulary(extra_ids=125)
  )
  assert sorted(path.name for path in (tmp_path / 'run').iterdir()) == [
    'checkpoints', 'model.gin', 'vocabulary'
  ]  # fmt: skip
  kept = vocabulary.load(tmp_path / 'run' / 'vocabulary')
  assert vocabulary.fingerprint(kept) == origins.open_origin(tmp_path / 'run').vocabulary
  assert "mlp_activations = ('silu', 'linear')" in (tmp_path / 'run' / 'model.gin').read_text()


def test_weights_keep_their_dtype_when_asked(weights, tmp_path):
  for dtype, expected in (('bfloat16', ml_dtypes.bfloat16), ('float32', np.float32)):
    conversion.write_run(weights, weights.model, tmp_path / dtype, dtype=dtype)
    name = 'encoder/layers_1/mlp/wi_0/kernel'
    array = origins.open_origin(tmp_path / dtype).read(name)
    assert array.dtype == expected
    np.testing.assert_array_equal(array.astype(np.float32), weights.read(name).astype(np.float32))


def test_weights_that_do_not_fit_their_model_leave_nothing_behind(weights, tmp_path):
  other = dataclasses.replace(weights.model, num_encoder_layers=3, mlp_dim=8)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(errors.UserError, match='it lacks encoder/layers_2.* and 5 more') as raised:
    conversion.write_run(weights, other, tmp_path / 'run')
  assert 'mlp/wi_0/kernel [8, 16] against [8, 8]' in str(raised.value)
  assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('error', [errors.UserError('cut short'), OSError(28, 'No space left')])
def test_a_conversion_that_fails_on_the_way_leaves_nothing_behind(weights, tmp_path, error):
  def fails(name):
    if name == 'decoder/decoder_norm/scale':
      raise error
    return weights.read(name)

  before = sorted(tmp_path.iterdir())
  with pytest.raises(errors.UserError, match='cut short|No space left'):
    conversion.write_run(dataclasses.replace(weights, read=fails), weights.model, tmp_path / 'run')
  assert sorted(tmp_path.iterdir()) == before


def test_a_vocabulary_that_is_too_large_for_the_model_is_refused(weights, tmp_path):
  words = seqio.ByteVocabulary(extra_ids=200)
  with pytest.raises(errors.UserError, match='has 459 ids, but the model only .*vocab_size=384'):
    conversion.write_run(weights, weights.model, tmp_path / 'run', vocabulary=words)
  assert not (tmp_path / 'run').exists()


def test_a_converted_run_is_no_place_to_resume(weights, tmp_path):
  conversion.write_run(weights, weights.model, tmp_path / 'run')
  checkpoints = manager.CheckpointManager(tmp_path / 'run' / 'checkpoints')
  with pytest.raises(errors.UserError, match='holds parameters alone'):
    checkpoints.restore(0, {'params': {}, 'step': np.zeros(())})
