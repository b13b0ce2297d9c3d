"""What schedulers say of a process, in the variables that their manuals name."""

import http.server
import threading

import pytest

from t5x_lite.hosts import clusters

SLURM = {
  'SLURM_JOB_ID': '4100',
  'SLURM_STEP_NODELIST': 'node[007-009,012],gpu1',
  'SLURM_STEP_NUM_NODES': '5',
  'SLURM_STEP_NUM_TASKS': '5',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '0',
}
GKE = {
  'TPU_WORKER_HOSTNAMES': 'run-0-0.run,run-0-1.run',
  'TPU_WORKER_ID': '1',
  'JAX_PLATFORMS': 'tpu',
}
OPEN_MPI = {
  'OMPI_COMM_WORLD_SIZE': '4',
  'OMPI_COMM_WORLD_RANK': '2',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '1',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}


@pytest.fixture(autouse=True)
def libtpu(monkeypatch):
  """As if it were installed."""
  monkeypatch.setattr(clusters.importlib.util, 'find_spec', lambda name: name)


@pytest.mark.parametrize(
  ('environment', 'place'),
  [
    ({}, None),
    # 61440 + 4100 % 4096.
    (SLURM, ('node007:61444', 5, 3, None)),
    (
      SLURM | {'SLURM_STEP_NUM_NODES': '1', 'SLURM_LOCALID': '3'},
      ('node007:61444', 5, 3, 3),
    ),
    # Bound to the GPU that is its own.
    (
      SLURM | {'SLURM_STEP_NUM_NODES': '1', 'SLURM_LOCALID': '3', 'CUDA_VISIBLE_DEVICES': '3'},
      ('node007:61444', 5, 3, None),
    ),
    # A shell within an allocation of five tasks, and a script before its first `srun`.
    (SLURM | {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_NTASKS': '5'}, None),
    ({'SLURM_JOB_ID': '4100', 'SLURM_NTASKS': '5', 'SLURM_PROCID': '0'}, None),
    (OPEN_MPI, (None, 4, 2, None)),
    (
      OPEN_MPI | {'OMPI_MCA_orte_hnp_uri': '131072.0;tcp://10.96.0.1,10.148.0.1:34911'},
      ('10.96.0.1:61442', 4, 2, None),
    ),
    (
      OPEN_MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '4', 'OMPI_COMM_WORLD_LOCAL_RANK': '2'},
      (None, 4, 2, 2),
    ),
    (OPEN_MPI | {'OMPI_COMM_WORLD_SIZE': '1'}, None),
    (GKE, ('run-0-0.run:61440', 2, 1, None)),
    (GKE | {'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}, None),
    (GKE | {'JAX_PLATFORMS': 'cpu'}, None),
    (
      GKE
      | {
        'MEGASCALE_COORDINATOR_ADDRESS': 'run-slice-0-0.run:8080',
        'MEGASCALE_NUM_SLICES': '3',
        'MEGASCALE_SLICE_ID': '2',
      },
      ('run-slice-0-0.run:61440', 6, 5, None),
    ),
  ],
)
def test_a_process_finds_its_place(environment, place):
  assert clusters.detect(environment) == place


@pytest.mark.parametrize(
  ('nodes', 'first'),
  [
    ('node1', 'node1'),
    ('node1,node2', 'node1'),
    ('node[001-015],other', 'node001'),
    ('rack[2-3]-node[07,09]', 'rack2-node07'),
    ('a,b[1-2]', 'a'),
  ],
)
def test_the_first_node_of_a_list(nodes, first):
  assert clusters.first_node(nodes) == first


METADATA = {
  'agent-worker-number': '1',
  'worker-network-endpoints': 'unknown:unknown:10.0.0.5,unknown:unknown:10.0.0.6',
  'tpu-env': "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '2'\n"
  "MEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1'\n",
}


class MetadataServer(http.server.BaseHTTPRequestHandler):
  """As Google's, which wants that header."""

  def do_GET(self):
    name = self.path.removeprefix('/computeMetadata/v1/instance/attributes/')
    there = name in METADATA and self.headers['Metadata-Flavor'] == 'Google'
    self.send_response(200 if there else 404)
    self.end_headers()
    self.wfile.write(METADATA.get(name, '').encode())

  def log_message(self, *unused):
    pass


def test_a_tpu_virtual_machine_asks_the_metadata_server(monkeypatch):
  with http.server.ThreadingHTTPServer(('localhost', 0), MetadataServer) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {'GCE_METADATA_IP': f'localhost:{server.server_port}'}
    assert clusters.of_metadata(environment) == ('10.0.0.1:61440', 4, 3, None)
    monkeypatch.setitem(METADATA, 'tpu-env', "ACCELERATOR_TYPE: 'v5litepod-16'\n")
    assert clusters.of_metadata(environment) == ('10.0.0.5:61440', 2, 1, None)
    monkeypatch.delitem(METADATA, 'agent-worker-number')
    assert clusters.of_metadata(environment) is None
    server.shutdown()
