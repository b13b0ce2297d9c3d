"""Devices to plan for, which need not be there, and what their makers say of them."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from typing import Any

import jax

from t5x_lite import errors
from t5x_lite.planning import apart


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a device has besides its FLOP/s, see `monitoring.flops.peak_flops`.

  Attributes:
    memory_bytes: of its HBM.
    memory_bandwidth: bytes a second, to and from it.
    link_bandwidth: bytes a second that it sends to its neighbours, over all links.
    network_bandwidth: its share of those that its slice sends over the data-centre network; None if that is not said.
  """

  memory_bytes: float
  memory_bandwidth: float
  link_bandwidth: float
  network_bandwidth: float | None = None


# As published by the makers, of one JAX device, whose `device_kind` the pattern is found in.
_CHIPS = (
  ('tpu v4', Chip(32 * 2**30, 1228e9, 300e9)),
  ('tpu v5 ?lite|tpu v5e', Chip(16 * 2**30, 819e9, 200e9, 6.4e12 / 8 / 256)),
  ('tpu v5p?', Chip(95 * 2**30, 2765e9, 600e9, 50e9 / 8)),
  ('tpu v6 ?lite|tpu v6e', Chip(32 * 2**30, 1638e9, 400e9, 25.6e12 / 8 / 256)),
  ('a100.*40gb', Chip(40 * 2**30, 1555e9, 300e9)),
  ('a100', Chip(80 * 2**30, 2039e9, 300e9)),
  ('h100', Chip(80 * 2**30, 3350e9, 450e9)),
  ('h200', Chip(141e9, 4800e9, 450e9)),
)


def chip(device_kind: str) -> Chip | None:
  """Returns what is known of a device, by `jax.Device.device_kind`; None of others, such as CPUs."""
  kind = device_kind.lower()
  return next((chip for pattern, chip in _CHIPS if re.search(rf'\b({pattern})\b', kind)), None)


def call(topology: str | None, function: Callable[[], Any]) -> Any:
  """Calls a function that may use the `devices` of a topology; `apart`, if these are elsewhere."""
  return function() if topology is None else apart.call(function)


@functools.cache
def devices(topology: str | None) -> tuple[jax.Device, ...]:
  """Returns the local devices, or those of TPUs that are elsewhere; for these see `call`.

  Args:
    topology: generation and shape of a slice, 'v5e:4x4' or 'v5p:2x2x2', after the number of slices if there are
      several, '2xv5e:16x16'; None for what is here.

  Raises:
    UserError: there are no such slices, or no libtpu that knows.
  """
  if topology is None:
    return tuple(jax.devices())
  try:
    import libtpu  # noqa: F401 - the compiler
  except ModuleNotFoundError:
    raise errors.UserError(
      f"--topology={topology} needs libtpu: pip install 't5x_lite[tpu]'"
    ) from None
  from jax.experimental import topologies

  # Without these libtpu asks the cloud which TPU this machine is, and wants it for itself.
  os.environ |= {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  }
  # What is cached can be read on the devices alone.
  jax.config.update('jax_enable_compilation_cache', False)
  number, name = re.fullmatch(r'(?:([1-9]\d*) ?x ?)?(.*)', topology).groups()
  options = {'num_slices': int(number)} if number else {}
  if re.fullmatch(r'\w+:1(x1)*', name):
    options['chips_per_host_bounds'] = (1, 1, 1)
  if name.startswith('v4:'):
    options['chip_config_name'] = (
      'megacore'  # As jax has them: one device for both cores of a chip.
    )
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
  except Exception as error:  # What it raises depends on the name and on the version.
    said = str(error).splitlines()[0]
    raise errors.UserError(
      f'--topology={topology}: {said}; give one such as v5e:4x4, v6e:4x4, v4:2x2x1 or v5p:2x2x2, or several, 2xv5e:4x4'
    ) from None
  return tuple(found.devices)
