"""Finds out from the environment which process of a job this is.

Each scheduler says it in variables of its own. Of a slice of TPU virtual machines the machine's
metadata server says it.
"""

import glob
import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

# Above the ports that Linux gives to outgoing connections. The ids of jobs choose among so many.
_FIRST_PORT = 61440
_NUM_PORTS = 4096
_METADATA_SECONDS = 5


class Place(NamedTuple):
  """A process among those of its job.

  Attributes:
    address: 'HOST:PORT' at which the first process receives the others; None if it is not known.
    count: number of processes.
    index: this one's number, from 0.
    device: its accelerator among those of the machine, where each process has one; None for all.
  """

  address: str | None
  count: int
  index: int
  device: int | None = None


def detect(environment: Mapping[str, str] = os.environ) -> Place | None:
  """Returns the place of this process among several, None if it is alone."""
  for find in (_slurm, _open_mpi, _tpu_on_kubernetes, _tpu_virtual_machine):
    place = find(environment)
    if place is not None and place.count > 1:
      return place
  return None


def _slurm(environment):
  """A task of `srun`. What `salloc` or `sbatch` runs by itself is none, whatever they allocated."""
  if 'SLURM_STEP_NUM_TASKS' not in environment or 'SLURM_STEP_NODELIST' not in environment:
    return None
  count = int(environment['SLURM_STEP_NUM_TASKS'])
  num_nodes = int(environment.get('SLURM_STEP_NUM_NODES', 1))
  port = _FIRST_PORT + int(environment['SLURM_JOB_ID']) % _NUM_PORTS
  return Place(
    f'{first_node(environment["SLURM_STEP_NODELIST"])}:{port}',
    count,
    int(environment['SLURM_PROCID']),
    _own_device(environment, count > num_nodes, 'SLURM_LOCALID'),
  )


def first_node(node_list: str) -> str:
  """Returns the first name of a list in SLURM's notation: node007 of 'node[007-009,012],gpu1'."""
  first = re.match(r'(?:[^,\[]|\[[^\]]*\])+', node_list)[0]
  return re.sub(r'\[(\d+)[^\]]*\]', r'\1', first)


def _open_mpi(environment):
  if 'OMPI_COMM_WORLD_SIZE' not in environment:
    return None
  count = int(environment['OMPI_COMM_WORLD_SIZE'])
  # Up to version 4 this names the machine of mpirun, where the first process is by default.
  launcher = re.match(r'(\d+)\..*?://\[?([^,:\]]+)', environment.get('OMPI_MCA_orte_hnp_uri', ''))
  address = None
  if launcher:
    job = int(launcher[1]) // 2**16
    address = f'{launcher[2]}:{_FIRST_PORT + job % _NUM_PORTS}'
  shares_machine = int(environment.get('OMPI_COMM_WORLD_LOCAL_SIZE', 1)) > 1
  return Place(
    address,
    count,
    int(environment['OMPI_COMM_WORLD_RANK']),
    _own_device(environment, shares_machine, 'OMPI_COMM_WORLD_LOCAL_RANK'),
  )


def _own_device(environment, shares_machine, variable):
  """The accelerator of a process that shares its machine, unless it sees no other one anyhow."""
  visible = environment.get('CUDA_VISIBLE_DEVICES', '0,1').split(',')
  return int(environment[variable]) if shares_machine and len(visible) > 1 else None


def _tpu_on_kubernetes(environment):
  """A pod of GKE: of one slice, or of several joined by the data-centre network."""
  hosts = environment.get('TPU_PROCESS_ADDRESSES') or environment.get('TPU_WORKER_HOSTNAMES')
  if not hosts or not _may_use_tpu(environment):
    return None
  return _in_slices(hosts.split(','), int(environment.get('TPU_WORKER_ID', 0)), environment)


def _tpu_virtual_machine(environment):
  has_chips = glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*')
  if not has_chips or not _may_use_tpu(environment) or 'TPU_SKIP_MDS_QUERY' in environment:
    return None
  return of_metadata(environment)


def of_metadata(environment: Mapping[str, str]) -> Place | None:
  """Returns what the metadata server says of this virtual machine, None if it is of no slice."""
  try:
    index = int(_metadata('agent-worker-number', environment))
    # Either names, or 'name:id:address' each.
    hosts = [
      each.rsplit(':', 1)[-1]
      for each in _metadata('worker-network-endpoints', environment).split(',')
    ]
    lines = re.findall(r"^(\w+):\s*'?([^'\n]*)'?", _metadata('tpu-env', environment), re.MULTILINE)
  except (OSError, urllib.error.URLError):
    return None
  return _in_slices(hosts, index, {**dict(lines), **environment})


def _metadata(name, environment):
  server = environment.get('GCE_METADATA_IP', 'metadata.google.internal')
  request = urllib.request.Request(
    f'http://{server}/computeMetadata/v1/instance/attributes/{name}',
    headers={'Metadata-Flavor': 'Google'},
  )
  with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
    return answer.read().decode()


def _in_slices(hosts, index, environment):
  """Numbers the hosts of all slices, slice by slice."""
  first = environment.get('MEGASCALE_COORDINATOR_ADDRESS') or hosts[0]
  num_slices = int(environment.get('MEGASCALE_NUM_SLICES') or 1)
  this_slice = int(environment.get('MEGASCALE_SLICE_ID') or 0)
  return Place(
    f'{first.split(":")[0]}:{_FIRST_PORT}',
    num_slices * len(hosts),
    this_slice * len(hosts) + index,
  )


def _may_use_tpu(environment):
  platforms = environment.get('JAX_PLATFORMS', '')
  return (not platforms or 'tpu' in platforms) and importlib.util.find_spec('libtpu') is not None
