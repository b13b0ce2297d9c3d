"""Greedy decoding against Hugging Face's on its own tiny models, read without its library."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from t5x_lite.decoding import sampling
from t5x_lite.models.config import T5Config

PROJECTIONS = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}
ENCODER_SUBLAYERS = {
  '0': ('attention', 'pre_attention_layer_norm'),
  '1': ('mlp', 'pre_mlp_layer_norm'),
}
DECODER_SUBLAYERS = {
  '0': ('self_attention', 'pre_self_attention_layer_norm'),
  '1': ('encoder_decoder_attention', 'pre_cross_attention_layer_norm'),
  '2': ('mlp', 'pre_mlp_layer_norm'),
}


def read_safetensors(path):
  """A length, a JSON header of that length, and the bytes that it describes."""
  data = path.read_bytes()
  size = int.from_bytes(data[:8], 'little')
  tensors = {}
  for name, entry in json.loads(data[8 : 8 + size]).items():
    if name != '__metadata__':
      assert entry['dtype'] == 'F32'
      start, end = (8 + size + offset for offset in entry['data_offsets'])
      tensors[name] = np.frombuffer(data[start:end], np.float32).reshape(entry['shape'])
  return tensors


def renamed(name, tensor):
  """Returns our path and array of a tensor of Hugging Face's, whose kernels are transposed."""
  parts = name.split('.')
  if name == 'shared.weight':
    return ('token_embedder', 'embedding'), tensor
  if name == 'lm_head.weight':
    return ('decoder', 'logits_dense', 'kernel'), tensor.T
  stack = parts[0]
  if parts[1] == 'final_layer_norm':
    return (stack, f'{stack}_norm', 'scale'), tensor
  if 'relative_attention_bias' in parts:
    return (stack, 'relpos_bias', 'rel_embedding'), tensor.T
  sublayers = ENCODER_SUBLAYERS if stack == 'encoder' else DECODER_SUBLAYERS
  sublayer, norm = sublayers[parts[4]]
  layer = f'layers_{parts[2]}'
  if parts[5] == 'layer_norm':
    return (stack, layer, norm, 'scale'), tensor
  return (stack, layer, sublayer, PROJECTIONS.get(parts[6], parts[6]), 'kernel'), tensor.T


def read_model(folder):
  theirs = json.loads((folder / 'config.json').read_text())
  params = dict(
    renamed(name, tensor)
    for name, tensor in read_safetensors(folder / 'model.safetensors').items()
    if 'embed_tokens' not in name
  )
  gated = theirs['feed_forward_proj'] == 'gated-gelu'
  config = T5Config(
    vocab_size=theirs['vocab_size'],
    emb_dim=theirs['d_model'],
    num_heads=theirs['num_heads'],
    head_dim=theirs['d_kv'],
    mlp_dim=theirs['d_ff'],
    num_encoder_layers=theirs['num_layers'],
    num_decoder_layers=theirs['num_decoder_layers'],
    mlp_activations=('gelu', 'linear') if gated else ('relu',),
    logits_via_embedding=('decoder', 'logits_dense', 'kernel') not in params,
    dtype='float32',
    scan_layers=False,
  )
  return config, traverse_util.unflatten_dict(params)


@pytest.mark.parametrize('name', ['t5_1_0', 't5_1_1'])
def test_greedy_decoding_repeats_the_generations_of_hugging_face(shared_data, name):
  folder = shared_data / 'golden' / 'hf_tiny' / name
  config, params = read_model(folder)
  with np.load(folder / 'expected.npz') as expected:
    inputs = expected['input_ids'].astype(np.int32)
  sequences = json.loads((folder / 'generation.json').read_text())['greedy']['sequences']
  sequences = np.array(sequences)[:, 1:]  # Theirs begin with the decoder's start token.
  decode = functools.partial(sampling.greedy, config, max_length=sequences.shape[1])
  np.testing.assert_array_equal(jax.jit(decode)(params, inputs).tokens, sequences)
