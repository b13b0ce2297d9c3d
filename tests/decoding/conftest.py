"""The model that T5X trained to reverse, and what T5X decodes with it."""

import dataclasses
import json

import numpy as np
import pytest
from flax import traverse_util

from t5x_lite.models.config import T5Config


@pytest.fixture(scope='module')
def of_t5x(shared_data):
  """Its configuration, its parameters and T5X's answers."""
  folder = shared_data / 'golden' / 't5x_train'
  expected = json.loads((folder / 'expected.json').read_text())
  with np.load(folder / 'reverse.params.npz') as arrays:
    params = traverse_util.unflatten_dict(dict(arrays), sep='/')
  config = dataclasses.replace(T5Config(**expected['config']), scan_layers=False)
  return config, params, expected['decoding']
