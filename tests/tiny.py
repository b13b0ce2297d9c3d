"""The model that most tests are about: one small enough that only compiling it takes time."""

import jax
import numpy as np
import pytest

from t5x_lite import sharding
from t5x_lite.decoding import loop
from t5x_lite.evaluation import inference
from t5x_lite.models import architectures
from t5x_lite.models.config import T5Config
from t5x_lite.training import state

SHAPE = {
  'vocab_size': 32,
  'emb_dim': 8,
  'num_heads': 2,
  'head_dim': 4,
  'mlp_dim': 16,
  'num_encoder_layers': 1,
  'num_decoder_layers': 1,
}


def config(**changes) -> T5Config:
  """Returns the tiny model's configuration in float32, changed as a test needs it."""
  return T5Config(**{**SHAPE, 'dtype': 'float32', **changes})


def params(config, seed=0):
  """Returns random parameters, ones in the norms, as numpy arrays; nothing is compiled for them."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    is_scale = sharding.names(path)[-1] == 'scale'
    return (np.ones(x.shape) if is_scale else rng.normal(0, 0.4, x.shape)).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(draw, state.param_shapes(architectures.create(config)))


def inference_on(config, num_devices, ici=(-1, 1, 1)):
  """Returns an `Inference` on a mesh of so many devices, or skips, and random parameters there."""
  if jax.device_count() < num_devices:
    pytest.skip('needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8')
  mesh = sharding.make_mesh(sharding.MeshConfig(ici=ici), jax.devices()[:num_devices])
  abstract = state.abstract_params(architectures.create(config), mesh, sharding.RULES)
  rng = np.random.default_rng(0)

  def random(x):
    return jax.device_put(rng.normal(0, 0.5, x.shape).astype(x.dtype), x.sharding)

  return inference.Inference(config, mesh), jax.tree.map(random, abstract)


def decode(config, params, inputs, strategy, max_length, **options):
  """Returns what `loop.decode` does under jit, as numpy arrays."""

  def jitted(params, inputs):
    return loop.decode(config, params, inputs, strategy, max_length=max_length, **options)

  return jax.tree.map(np.asarray, jax.jit(jitted)(params, inputs))


def batch(seed=0, vocab_size=SHAPE['vocab_size']):
  """Returns 8 random examples, some of them padded: inputs [8, 6], targets [8, 5]."""
  rng = np.random.default_rng(seed)
  inputs = rng.integers(1, vocab_size, (8, 6)).astype(np.int32)
  targets = rng.integers(1, vocab_size, (8, 5)).astype(np.int32)
  inputs[::2, 4:] = 0
  targets[::3, 2:] = 0
  return {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'decoder_target_tokens': targets,
    'decoder_loss_weights': (targets > 0).astype(np.int32),
  }
