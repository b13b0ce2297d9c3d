"""What a path leads to, and whether its parameters may be used."""

import dataclasses

import numpy as np
import pytest
import tiny

from t5x_lite import errors
from t5x_lite.checkpoints import manager, origins

CONFIG = tiny.config()


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
  with pytest.raises(errors.UserError, match='model of.*has another form.*rotary.*another version'):
    origin.model  # noqa: B018 - a property that raises.
  with pytest.raises(errors.UserError, match="3 does not say its 'task_feature_lengths'"):
    origin.said('task_feature_lengths')


@pytest.mark.parametrize(
  'change',
  [
    {'mlp_activations': ('silu', 'linear')},
    {'relative_attention_max_distance': 64},
  ],
)
def test_a_model_of_the_same_shapes_that_computes_something_else_is_refused(tmp_path, change):
  origin = checkpoint_of(tmp_path, **dataclasses.asdict(CONFIG))
  origins.check_model(origin, dataclasses.replace(CONFIG, dtype='bfloat16', scan_layers=False))
  with pytest.raises(errors.UserError, match=f'this run has T5Config.{next(iter(change))}='):
    origins.check_model(origin, dataclasses.replace(CONFIG, **change))
