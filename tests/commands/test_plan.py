"""`t5x-lite plan`, for the devices that are here and for TPUs that are not."""

import importlib.util
import re

import byte_runs
import pytest

LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 24}"
TINY = (*byte_runs.MODEL, '--gin_file=runs/pretrain.gin', LENGTHS)
FSDP = '--gin.MESH=@sharding.fsdp()'
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason="needs pip install 't5x_lite[tpu]'"
)


@pytest.fixture
def plan(command):
  """Function that plans in a process of its own: (status, stdout, stderr)."""

  def run(*arguments):
    process = command('plan', *arguments)
    out, err = process.communicate()
    return process.returncode, out, err

  return run


def figure(out, name):
  """The first number of the last line that begins with a name."""
  *_, line = [line for line in out.splitlines() if line.strip().startswith(f'{name}  ')]
  return float(re.search(r'[\d,.]+', line.replace(name, '', 1))[0].replace(',', ''))


def test_a_run_is_planned_for_the_devices_that_are_here(plan):
  status, out, err = plan(*TINY, '--gin.BATCH_SIZE=8')
  assert status == 0, err
  assert re.search(r'^decoder/layers/mlp/wo/kernel +2 x 16 x 8 ', out, re.MULTILINE)
  parts = ('parameters', 'optimizer state', 'activations, gradients, the batch and the program')
  assert sum(figure(out, name) for name in parts) == pytest.approx(figure(out, 'peak'), abs=2e-3)
  assert 'one step on one of 1 cpu' in out
  assert 'at least' not in out  # Nobody publishes the bandwidths of a CPU.


@needs_libtpu
@pytest.mark.slow
def test_a_run_is_planned_for_tpus_that_are_elsewhere(plan):
  sizes = {}
  for rows in (8, 64):
    status, out, err = plan(*TINY, FSDP, '--topology=v5e:2x2', f'--gin.BATCH_SIZE={rows}')
    assert status == 0, err
    assert 'data 1, fsdp 4, tensor 1' in out and 'one step on one of 4 TPU v5 lite' in out
    assert figure(out, 'there are') == 16
    assert re.search(r'at least +[\d.]+ ms, MFU at most \d+%', out)
    assert figure(out, 'all-gather') > 0 and figure(out, 'all-reduce') > 0
    sizes[rows] = figure(out, 'peak'), figure(out, 'memory')
  assert sizes[64] > sizes[8]


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_says_why_and_what_to_change(plan):
  lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 2048, 'targets': 24}"
  arguments = ('--topology=v5e:1x1', '--gin.BATCH_SIZE=1024', lengths)
  status, out, err = plan(*TINY, *arguments)
  assert status == 1, err
  assert figure(out, 'peak') > figure(out, 'there are') > 15
  buffers = re.search(r'largest buffers, GiB\n((?: .*\n){3})', out)[1].splitlines()
  assert all('2048, 2048]' in line for line in buffers[:1])
  assert 'it does not fit' in out and 'REMAT_POLICY' in out and 'NUM_MICROBATCHES' in out


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--gin.BATCH_SIZE=0'], 'BATCH_SIZE=0'),
    (['--gin.MESH=@sharding.fsdp_tensor()'], 'does not fit the 1 devices'),
    pytest.param(['--topology=v5e:3x7'], '--topology=v5e:3x7: ', marks=needs_libtpu),
    pytest.param(['--topology=pod'], 'give one such as v5e:4x4', marks=needs_libtpu),
  ],
)
def test_a_mistake_is_answered_in_one_line(plan, arguments, message):
  status, out, err = plan(*TINY, *arguments)
  assert status == 2 and out == ''
  [line] = [line for line in err.splitlines() if line.startswith('t5x-lite: error')]
  assert message in line
