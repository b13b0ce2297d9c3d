"""Parameters, gradients and what Adafactor makes of them, for those who write them as others do."""

import dataclasses

import numpy as np
import optax
import tiny

from t5x_lite import sharding
from t5x_lite.checkpoints import layout
from t5x_lite.models import encoder_decoder
from t5x_lite.training import state as training_state

# Large enough for Adafactor to factor, with kernels that are square, wide and tall, and every axis
# a power of two, so that means of small integers are exact.
CONFIG = tiny.config(
  vocab_size=512,
  emb_dim=256,
  num_heads=2,
  head_dim=64,
  mlp_dim=256,
  num_encoder_layers=2,
  num_decoder_layers=3,
)


def params_of(config, seed=0):
  """Random small integers, none of them 0, for every parameter, by name with the layers apart."""
  model = encoder_decoder.T5(dataclasses.replace(config, scan_layers=False))
  mesh = sharding.make_mesh(sharding.data_parallel())
  shapes = training_state.abstract_params(model, mesh, sharding.RULES)
  rng = np.random.default_rng(seed)
  return {
    name: rng.integers(1, 10, leaf.shape).astype(np.float32)
    for name, leaf in layout.flatten(shapes).items()
  }


PARAMS = params_of(CONFIG)
GRADIENTS = params_of(CONFIG, seed=1)


def optax_slots(gradients):
  """What optax's Adafactor keeps of each parameter after one step, when nothing has decayed."""
  optimizer = optax.scale_by_factored_rms()
  state = optimizer.init(gradients)
  _, state = optimizer.update(gradients, state, gradients)
  slots = {}
  for slot in ('v_row', 'v_col', 'v'):
    for name, array in getattr(state, slot).items():
      if array.shape != (1,):
        slots[f'{slot}/{name}'] = np.asarray(array)
  return slots
