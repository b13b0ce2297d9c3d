"""Weights in fewer bytes: how exact they are, what a model computes with them, and where they lie."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import traverse_util

from t5x_lite import errors
from t5x_lite.models import architectures, quantization, stacking
from t5x_lite.models.config import ARCHITECTURES, IA3, LoRA, Prompt

WIDE = {'emb_dim': 32, 'mlp_dim': 64, 'head_dim': 16}  # So that errors average out.


@pytest.mark.parametrize(
  ('name', 'shape', 'scale_shape'),
  [
    ('encoder/layers_0/mlp/wi/kernel', (40, 30), (1, 30)),
    ('decoder/layers/mlp/wo/kernel', (3, 40, 30), (3, 1, 30)),
    ('token_embedder/embedding', (40, 30), (40, 1)),
  ],
)
def test_int8_is_off_by_half_of_an_output_channels_step_at_most(name, shape, scale_shape):
  matrix = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
  matrix[..., 7, :] *= 100  # What is large makes other channels no coarser, but for those it is in.
  matrix[..., 9], matrix[..., 9, :] = 0, 0
  kept = quantization.keep(name, matrix, 'int8')
  assert kept.values.dtype == jnp.int8 and kept.values.shape == kept.shape == shape
  assert kept.scale.dtype == jnp.float32 and kept.scale.shape == scale_shape
  axis = scale_shape.index(1)
  step = np.abs(matrix).max(axis, keepdims=True) / 127
  error = np.abs(kept.astype(jnp.float32) - matrix)
  assert (error <= step * 0.5001).all() and error.max() > 0.4 * step.max()
  values = np.asarray(kept.values)
  assert values.min() >= -127 and (np.abs(values).max(axis, keepdims=True)[step > 0] == 127).all()


def test_norms_biases_and_adapters_stay_as_they_are():
  params = tiny.params(tiny.config(adapter=LoRA(rank=2), logits_via_embedding=True))
  for weights in quantization.WEIGHTS:
    kept = traverse_util.flatten_dict(quantization.keep_all(params, weights), sep='/')
    for name, x in traverse_util.flatten_dict(params, sep='/').items():
      if weights is None or not name.endswith(('/kernel', 'token_embedder/embedding')):
        assert kept[name] is x
      elif weights == 'int8':
        assert isinstance(kept[name], quantization.Int8)
      else:
        assert kept[name].dtype == jnp.bfloat16
  with pytest.raises(errors.UserError, match="WEIGHTS='int4' may be 'bfloat16', 'int8', or None"):
    quantization.keep_all(params, 'int4')


def config_of(architecture, **changes):
  num_encoder_layers = 2 if architecture.endswith('encoder_decoder') else 0
  return tiny.config(
    **WIDE,
    architecture=architecture,
    num_encoder_layers=num_encoder_layers,
    num_decoder_layers=2,
    **changes,
  )


def new_params(config):
  """Parameters as training begins with them, adapters that do something included."""
  init = jax.jit(architectures.create(config).init)
  flat = traverse_util.flatten_dict(nn.unbox(init(jax.random.key(0), tiny.batch())['params']))
  drawn = np.random.default_rng(0)
  changed = {
    path: x + drawn.normal(0, 0.1, x.shape).astype(np.float32)
    for path, x in flat.items()
    if path[-1] in ('lora_b', 'ia3')
  }
  return traverse_util.unflatten_dict(flat | changed)


def logits(config, params):
  batch = tiny.batch()
  return np.asarray(jax.jit(architectures.create(config).apply)({'params': params}, batch))


T5_1_0 = {'mlp_activations': ('relu',), 'logits_via_embedding': True}


@pytest.mark.parametrize(
  'config',
  [
    *(config_of(architecture) for architecture in ARCHITECTURES),
    config_of('encoder_decoder', scan_layers=False, **T5_1_0),
    config_of('encoder_decoder', adapter=LoRA(rank=2)),
    config_of('encoder_decoder', adapter=IA3()),
    config_of('encoder_decoder', adapter=Prompt(3, 'uniform')),
  ],
  ids=lambda config: f'{config.architecture}-{config.mlp_activations}-{config.adapter}',
)
def test_a_model_computes_nearly_the_same(config):
  params = new_params(config)
  exact = logits(config, params)
  for weights, tolerance in (('bfloat16', 0.012), ('int8', 0.03)):
    near = logits(config, quantization.keep_all(params, weights))
    assert near.dtype == np.float32
    error = np.linalg.norm(near - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < tolerance, (weights, error)


def test_in_bfloat16_all_the_way_nothing_changes():
  config = config_of('encoder_decoder', dtype='bfloat16')
  params = new_params(config)
  kept = quantization.keep_all(params, 'bfloat16')
  np.testing.assert_array_equal(logits(config, kept), logits(config, params))


def test_scanned_and_unrolled_layers_are_rounded_alike():
  scanned = config_of('encoder_decoder')
  params = quantization.keep_all(new_params(scanned), 'int8')
  unrolled = config_of('encoder_decoder', scan_layers=False)
  np.testing.assert_allclose(
    logits(scanned, params), logits(unrolled, stacking.unstack_layers(params)), rtol=1e-5, atol=1e-5
  )


def test_each_device_holds_its_part_of_the_values_and_of_their_scales():
  _, params = tiny.inference_on(tiny.config(scan_layers=False), 8, ici=(2, 2, 2))
  kept = quantization.keep_all(params, 'int8')
  layer, exact = kept['decoder']['layers_0']['mlp'], params['decoder']['layers_0']['mlp']
  for name in ('wi_0', 'wo'):
    kernel = layer[name]['kernel']
    assert kernel.values.sharding.is_equivalent_to(exact[name]['kernel'].sharding, 2)
    outputs = kernel.shape[1]
    assert kernel.scale.sharding.shard_shape(kernel.scale.shape) == (1, outputs // 2)
  embedding = kept['token_embedder']['embedding']
  assert embedding.scale.sharding.shard_shape(embedding.scale.shape) == (8, 1)
