"""Parameters written one by one, as those of a model that is larger than memory."""

import os

import numpy as np
import pytest

from t5x_lite import errors
from t5x_lite.checkpoints import layout, manager, storage

RNG = np.random.default_rng(0)
PARAMS = {
  'token_embedder/embedding': RNG.normal(size=(32, 8)).astype(np.float32),
  **{
    f'encoder/layers_{i}/mlp/wi/kernel': RNG.normal(size=(8, 16)).astype(np.float32)
    for i in range(3)
  },
}


@pytest.fixture
def checkpoints(tmp_path):
  return manager.CheckpointManager(tmp_path / 'checkpoints')


def test_parameters_written_one_by_one_are_those_that_are_read(checkpoints, monkeypatch):
  monkeypatch.setattr(storage, '_GROUP_BYTES', 1100)  # Of the four arrays, three groups.
  made = []

  def one_by_one():
    for name, array in PARAMS.items():
      made.append(name)
      yield name, array

  checkpoints.write_params(5, one_by_one(), metadata={'model': {}})
  assert made == list(PARAMS)
  assert checkpoints.steps() == [5] and checkpoints.metadata(5) == {'model': {}}
  assert os.listdir(checkpoints.directory) == ['5']
  for name, array in PARAMS.items():
    assert checkpoints.saved_params(5)[name].shape == array.shape
    read = checkpoints.read_params(5, {name: np.float32})
    np.testing.assert_equal(read, {name: array}, strict=True)


def test_parameters_written_one_by_one_are_restored_in_either_form_of_layers(checkpoints):
  checkpoints.write_params(0, PARAMS.items())
  apart = layout.unflatten({name: np.zeros_like(array) for name, array in PARAMS.items()})
  restored = layout.flatten(checkpoints.restore_params(0, apart))
  for name, array in PARAMS.items():
    np.testing.assert_array_equal(restored[name], array, strict=True)
  embedding, *kernels = PARAMS.values()
  scanned = {
    'token_embedder': {'embedding': embedding},
    'encoder': {'layers': {'mlp': {'wi': {'kernel': np.zeros((3, 8, 16), np.float32)}}}},
  }
  restored = checkpoints.restore_params(0, scanned)['encoder']['layers']['mlp']['wi']['kernel']
  np.testing.assert_array_equal(restored, np.stack(kernels))


def test_a_run_does_not_resume_from_parameters_alone(checkpoints):
  checkpoints.write_params(5, PARAMS.items())
  state = {'params': layout.unflatten(PARAMS), 'step': np.zeros((), np.int32)}
  with pytest.raises(errors.UserError, match='5 holds parameters alone: start a new run from it'):
    checkpoints.restore(5, state)


def test_parameters_that_cannot_be_made_leave_no_checkpoint(checkpoints):
  def fails():
    yield 'token_embedder/embedding', PARAMS['token_embedder/embedding']
    raise errors.UserError('the source is damaged')

  with pytest.raises(errors.UserError, match='the source is damaged'):
    checkpoints.write_params(0, fails())
  assert checkpoints.steps() == []
