"""Where parameters lie on a mesh, for the shapes of real models: nothing is made or compiled."""

import math

import jax
import optax
import pytest

from t5x_lite import sharding
from t5x_lite.models import architectures
from t5x_lite.models.config import T5Config
from t5x_lite.training import state as training_state

# Raffel et al. 2020, section 3.7, and the sizes of T5 1.1.
SIZES = {
  'small': {'emb_dim': 512, 'num_heads': 6, 'mlp_dim': 1024, 'layers': 8},
  'xl': {'emb_dim': 2048, 'num_heads': 32, 'mlp_dim': 5120, 'layers': 24},
  'xxl': {'emb_dim': 4096, 'num_heads': 64, 'mlp_dim': 10240, 'layers': 24},
}


def whole_bytes(tree):
  """Bytes of what every device holds whole."""
  return sum(
    math.prod(x.shape) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if x.sharding.shard_shape(x.shape) == x.shape
  )


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('preset', [sharding.fsdp, sharding.fsdp_tensor])
def test_fsdp_leaves_next_to_nothing_whole_on_every_device(size, preset):
  if jax.device_count() < 8:
    pytest.skip('needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8')
  shape = dict(SIZES[size])
  layers = shape.pop('layers')
  config = T5Config(
    vocab_size=32128,
    head_dim=64,
    num_encoder_layers=layers,
    num_decoder_layers=layers,
    mlp_activations=('gelu', 'linear'),
    logits_via_embedding=False,
    **shape,
  )
  mesh_config = preset()
  mesh = sharding.make_mesh(mesh_config)
  with sharding.activate(mesh, mesh_config.rules):
    state = training_state.abstract_state(
      architectures.create(config), optax.adafactor(1e-3), mesh, mesh_config.rules
    )
  num_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state.params))
  assert whole_bytes(state.params) < 0.001 * num_bytes
  # Adafactor's factors of the axes that are not divided: vectors in place of matrices.
  assert whole_bytes(state.opt_state) < 0.01 * num_bytes
