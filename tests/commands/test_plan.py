"""`t5x-lite plan`, for the devices that are here."""

import re

import byte_runs
import pytest

LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 24}"
TINY = (*byte_runs.MODEL, '--gin_file=runs/pretrain.gin', LENGTHS)


@pytest.fixture
def plan(command):
  """Function that plans on one device: (status, stdout, stderr)."""

  def run(*arguments):
    process = command('plan', *arguments, shared=True)
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
  assert 'in turn' not in out  # Nobody publishes the bandwidths of a CPU.


def test_inference_is_planned_for_the_devices_that_are_here(plan):
  status, out, err = plan(
    '--program=infer', *byte_runs.MODEL, LENGTHS, '--gin.BATCH_SIZE=64', '--gin.NUM_BEAMS=2'
  )
  assert status == 0, err
  assert '64 inputs on a mesh of data 1, fsdp 1, tensor 1' in out
  assert 'reading the inputs on one of 1 cpu' in out
  assert 'decoding one token of each answer on one of 1 cpu' in out


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--gin.BATCH_SIZE=0'], 'BATCH_SIZE=0'),
    (['--gin.MESH=@sharding.fsdp_tensor()'], 'does not fit the 1 devices'),
    (['--search'], '--search ranks by time, but nothing is known of cpu: give --topology'),
    (['--search=0', '--topology=v5e:4x4'], '--search=0 must be at least 1'),
    (['--search', '--program=infer'], '--search is for --program=train'),
    (['--program=infer', '--gin.PREFIX=so'], "no vocabulary for 'so' here: give token ids"),
  ],
)
def test_a_mistake_is_answered_in_one_line(plan, arguments, message):
  status, out, err = plan(*TINY, *arguments)
  assert status == 2 and out == ''
  [line] = [line for line in err.splitlines() if line.startswith('t5x-lite: error')]
  assert message in line
