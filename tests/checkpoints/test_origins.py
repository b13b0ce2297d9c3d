"""What a path leads to, and whether its parameters may be used."""

import dataclasses

import numpy as np
import pytest

from t5x_lite import errors
from t5x_lite.checkpoints import manager, origins
from t5x_lite.models.config import T5Config

CONFIG = T5Config(
  vocab_size=32,
  emb_dim=8,
  num_heads=2,
  head_dim=4,
  mlp_dim=16,
  num_encoder_layers=1,
  num_decoder_layers=1,
)


def checkpoint_of(folder, **model):
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    metadata = {'model': model, 'vocabulary': {'size': 32}}
    checkpoints.save(3, {'params': {'scale': np.ones(2)}}, metadata=metadata)
  return origins.open_origin(folder)


def test_a_run_is_opened_with_its_model_and_its_vocabulary(tmp_path):
  origin = checkpoint_of(tmp_path, **dataclasses.asdict(CONFIG))
  assert origin.path == str(tmp_path / 'checkpoints' / '3')
  assert origin.model == CONFIG and origin.vocabulary == {'size': 32}
  np.testing.assert_array_equal(origin.restore_params({'scale': np.zeros(2)})['scale'], np.ones(2))


def test_a_checkpoint_of_another_version_says_so(tmp_path):
  origin = checkpoint_of(tmp_path, **dataclasses.asdict(CONFIG), rotary=True)
  with pytest.raises(errors.UserError, match='does not say what model.*rotary.*another version'):
    origin.model  # noqa: B018 - a property that raises.


@pytest.mark.parametrize(
  'change',
  [
    {'mlp_activations': ('silu', 'linear')},
    {'relative_attention_max_distance': 64},
  ],
)
def test_a_model_of_the_same_shapes_that_computes_something_else_is_refused(tmp_path, change):
  origin = checkpoint_of(tmp_path, **dataclasses.asdict(CONFIG))
  origins.check_model(origin, dataclasses.replace(CONFIG, dtype='float32', scan_layers=False))
  with pytest.raises(errors.UserError, match=f'this run has T5Config.{next(iter(change))}='):
    origins.check_model(origin, dataclasses.replace(CONFIG, **change))
