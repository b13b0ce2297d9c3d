"""Devices to plan for, which need not be there, and what their makers say of them."""

import dataclasses
import os
import re
from collections.abc import Sequence

import jax

from t5x_lite import errors


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a device has besides its FLOP/s, see `monitoring.flops.peak_flops`.

  Attributes:
    memory_bytes: of its HBM.
    memory_bandwidth: bytes a second, to and from it.
    link_bandwidth: bytes a second that it sends to its neighbours, over all links.
  """

  memory_bytes: float
  memory_bandwidth: float
  link_bandwidth: float


# As published by the makers, of one JAX device, whose `device_kind` the pattern is found in.
_CHIPS = (
  ('tpu v4', Chip(32 * 2**30, 1228e9, 300e9)),
  ('tpu v5 ?lite|tpu v5e', Chip(16 * 2**30, 819e9, 200e9)),
  ('tpu v5p?', Chip(95 * 2**30, 2765e9, 600e9)),
  ('tpu v6 ?lite|tpu v6e', Chip(32 * 2**30, 1638e9, 400e9)),
  ('a100.*40gb', Chip(40 * 2**30, 1555e9, 300e9)),
  ('a100', Chip(80 * 2**30, 2039e9, 300e9)),
  ('h100', Chip(80 * 2**30, 3350e9, 450e9)),
  ('h200', Chip(141e9, 4800e9, 450e9)),
)


def chip(device_kind: str) -> Chip | None:
  """Returns what is known of a device, by `jax.Device.device_kind`; None of others, such as CPUs."""
  kind = device_kind.lower()
  return next((chip for pattern, chip in _CHIPS if re.search(rf'\b({pattern})\b', kind)), None)


def cores_per_chip(devices: Sequence[jax.Device]) -> int:
  """Returns how many devices share a chip, which the compiler has two of on a TPU v4."""
  return 1 + max(getattr(device, 'core_on_chip', 0) for device in devices)


def devices(topology: str | None) -> list[jax.Device]:
  """Returns the local devices, or those of TPUs that are elsewhere.

  Args:
    topology: generation and shape of a slice, 'v5e:4x4' or 'v5p:2x2x2'; None for what is here.

  Raises:
    UserError: there is no such slice, or no libtpu that knows.
  """
  if topology is None:
    return jax.devices()
  try:
    import libtpu  # noqa: F401 - the compiler
  except ModuleNotFoundError:
    raise errors.UserError(
      f"--topology={topology} needs libtpu: pip install 't5x_lite[tpu]'"
    ) from None
  from jax.experimental import topologies

  # Without these libtpu asks the cloud which TPU this machine is, and wants it for itself.
  os.environ |= {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
  is_one_chip = re.fullmatch(r'\w+:1(x1)*', topology)
  bounds = {'chips_per_host_bounds': (1, 1, 1)} if is_one_chip else {}
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=topology, **bounds)
  except Exception as error:  # What it raises depends on the name and on the version.
    said = str(error).splitlines()[0]
    raise errors.UserError(
      f'--topology={topology}: {said}; give one such as v5e:4x4, v6e:4x4, v4:2x2x1 or v5p:2x2x2'
    ) from None
  return list(found.devices)
