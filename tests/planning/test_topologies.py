"""Devices that are not there, and what is known of them."""

import sys

import jax
import pytest

from t5x_lite import errors
from t5x_lite.planning import topologies


def test_without_a_topology_devices_are_those_that_are_here():
  assert topologies.devices(None) == tuple(jax.devices())
  assert topologies.chip(jax.devices()[0].device_kind) is None


def test_a_missing_compiler_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(errors.UserError, match=r'--topology=v5e:2x2 needs libtpu: pip install'):
    topologies.devices('v5e:2x2')


@pytest.mark.parametrize(
  'kind, gibibytes',
  [
    ('TPU v4', 32), ('TPU v5 lite', 16), ('TPU v5e', 16), ('TPU v5', 95), ('TPU v5p', 95),
    ('TPU v6 lite', 32), ('NVIDIA A100-SXM4-80GB', 80), ('NVIDIA A100-SXM4-40GB', 40),
    ('NVIDIA H100 80GB HBM3', 80),
  ],
)  # fmt: skip
def test_devices_are_known_by_their_names(kind, gibibytes):
  assert topologies.chip(kind).memory_bytes == gibibytes * 2**30
