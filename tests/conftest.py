"""Fixtures that every test may use."""

import os
import pathlib

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Tests compile more than they compute.
os.environ.setdefault(
  'XLA_FLAGS', '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
)


@pytest.fixture(scope='session')
def shared_data():
  """Folder of real test data and golden outputs; tests that need it skip where it is absent."""
  default = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'
  folder = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', default))
  if not folder.is_dir():
    pytest.skip('set T5X_LITE_TEST_DATA to the folder of golden test data')
  return folder
