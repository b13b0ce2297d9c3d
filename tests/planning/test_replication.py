"""Where parameters lie on a mesh, for the shapes of real models: nothing is made or compiled."""

import math

import jax
import pytest
import test_model_files

from t5x_lite import sharding
from t5x_lite.models import architectures
from t5x_lite.training import optimizers
from t5x_lite.training import state as training_state

SIZES = (
  't5_1_1_small',
  't5_1_1_base',
  't5_1_1_large',
  't5_1_1_xl',
  't5_1_1_xxl',
  't5_1_0_3b',
  't5_1_0_11b',
)


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
  config = test_model_files.model_of(size)
  mesh_config = preset()
  mesh = sharding.make_mesh(mesh_config)
  with sharding.activate(mesh, mesh_config.rules):
    state = training_state.abstract_state(
      architectures.create(config), optimizers.adafactor(1e-3), mesh, mesh_config.rules
    )
  num_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state.params))
  assert whole_bytes(state.params) < 0.001 * num_bytes
  # Adafactor's factors of the axes that are not divided: vectors in place of matrices.
  assert whole_bytes(state.opt_state) < 0.01 * num_bytes
