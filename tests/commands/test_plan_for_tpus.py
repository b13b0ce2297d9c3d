"""`t5x-lite plan` for TPUs that are not here: published sizes from small to 11B, several slices, inference, a search."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import plans_for_tpus
import pytest

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="needs pip install 't5x_lite[tpu]'"
  ),
]


@pytest.fixture(scope='module')
def plans():
  """What all of `plans_for_tpus.PLANS` have come to."""
  program = [sys.executable, plans_for_tpus.__file__]
  # As it is where somebody plans: jax would start what is here, libtpu among it.
  environment = {name: value for name, value in os.environ.items() if name != 'JAX_PLATFORMS'}
  ended = subprocess.run(program, env=environment, stdout=subprocess.PIPE, check=True)
  return json.loads(ended.stdout)


def figure(out, name):
  """The first number of the last line that begins with a name."""
  *_, line = [line for line in out.splitlines() if line.strip().startswith(f'{name}  ')]
  return float(re.search(r'[\d,.]+', line.replace(name, '', 1))[0].replace(',', ''))


def times(out):
  """Pairs of a least time in ms and the MFU that it allows in percent."""
  found = re.findall(r'^  (?:all at once|in turn) +([\d.]+) ms, MFU ([\d.]+)%$', out, re.MULTILINE)
  return [(float(milliseconds), float(mfu)) for milliseconds, mfu in found]


@pytest.mark.parametrize('name', plans_for_tpus.SIZES)
def test_a_published_size_fits_its_slice_and_uses_it_well(plans, name):
  status, out, err = plans[name]
  assert status == 0, err
  topology, *_ = plans_for_tpus.SIZES[name]
  sides = [int(side) for side in topology.partition(':')[2].split('x')]
  assert f'one step on one of {sides[0] * sides[1]} TPU v5 lite' in out
  parts = ('parameters', 'optimizer state', 'activations, gradients, the batch and the program')
  assert sum(figure(out, part) for part in parts) == pytest.approx(figure(out, 'peak'), abs=2e-3)
  assert figure(out, 'peak') < 15.75 < figure(out, 'there are') == 16
  (first, at_most), (second, at_least) = times(out)
  assert first < second and 20 < at_least < at_most < 90


@pytest.mark.parametrize('name', plans_for_tpus.SIZES)
def test_what_a_published_size_computes_is_what_its_shapes_say_and_recomputation(plans, name):
  """The products of the forward pass come twice, but for those whose results nothing needs."""
  _, out, _ = plans[name]
  milliseconds, mfu = times(out)[0]
  model_flops = mfu / 100 * milliseconds / 1e3 * 197e12
  assert 1.2 < figure(out, 'work') * 1e9 / model_flops < 4 / 3


def test_what_slices_exchange_is_told_from_what_goes_over_links(plans):
  status, out, err = plans['slices']
  assert status == 0, err
  assert 'data 2, fsdp 4, tensor 1' in out and 'one step on one of 8 TPU v5 lite' in out
  of_time, of_collectives = out.split('collectives, ')
  exchanged = figure(of_time, 'between slices')
  *_, line = [each for each in of_collectives.splitlines() if 'between slices' in each]
  assert line.startswith('  all-reduce') and float(line.split()[-1]) == exchanged
  # The gradients of a device's part of the parameters, in bfloat16 or float32 and padded, around a ring of two.
  parameters = figure(out, 'parameters') * 1024
  assert parameters / 2 < exchanged < 1.5 * parameters


def test_inference_is_planned_with_its_cache(plans):
  status, out, err = plans['inference']
  assert status == 0, err
  assert 'reading the inputs on one of 4 TPU v4' in out and figure(out, 'there are') == 32
  # Keys and values of 2 layers, 128 rows a device, 6 heads of 64, for inputs and for two beams, in bfloat16.
  cache = 2 * 2 * 128 * 6 * 64 * (512 + 2 * 114) * 2
  assert figure(out, 'cache of keys and values') == pytest.approx(cache / 2**30, abs=1e-3)
  reading, decoding = re.findall(r'^  work +([\d,.]+) GFLOP', out, re.MULTILINE)
  assert float(reading.replace(',', '')) > 50 * float(decoding.replace(',', '')) > 0
  reading, _, decoding, _ = times(out)
  assert reading > decoding
  # A token's time is that of reading the cache, at least.
  assert decoding[0] > 1e3 * cache / 1228e9


def test_what_does_not_fit_says_why_and_what_to_change(plans):
  status, out, err = plans['too large']
  assert status == 1, err
  assert figure(out, 'peak') > figure(out, 'there are') > 15
  buffers = re.search(r'largest buffers, GiB\n((?: .*\n){3})', out)[1].splitlines()
  assert re.match(r'  bf16\[\d+(, \d+)*, 512\] +[\d.]+  jit\(train_step\)', buffers[0])
  assert 'it does not fit' in out and 'REMAT_POLICY' in out and 'NUM_MICROBATCHES' in out


def test_code_is_counted_where_it_is_asked_for(plans):
  status, out, err = plans['exact']
  assert status == 0, err
  assert 0 < figure(out, 'peak') < 0.1  # What is allowed for it otherwise.


def test_a_search_ranks_what_fits_and_says_how_to_have_the_best(plans):
  status, out, err = plans['search']
  assert status == 0, err
  tried, ranked = re.findall(r'^mesh .*\n((?:\d.* x .*\n)+)', out, re.MULTILINE)
  tried, ranked = tried.splitlines(), ranked.splitlines()
  # 6 heads do not divide by 4 devices, and all others do.
  assert re.search(r'^left out 1 x 1 x 4: .* has an axis of 6, which does not divide', out)
  # All policies on one mesh, and the best of them on another.
  meshes = [line[:13].strip() for line in tried]
  assert len(set(meshes[:5])) == 1 and meshes[5] != meshes[0]
  policies = [line.split()[5] for line in tried]
  assert policies[:5] == ['none', 'minimal', 'context+mlp_wi', 'context+attention_out', 'full']
  fitting = [line for line in tried if 'does not fit' not in line]
  assert f'6 compiled, {len(fitting)} of them fit' in out and sorted(ranked) == sorted(fitting)
  least = [float(re.search(r'([\d.]+) - [\d.]+ ms', line)[1]) for line in ranked]
  assert least == sorted(least)
  *_, flags = out.strip().splitlines()
  shape = tuple(int(size) for size in ranked[0][:13].split(' x '))
  assert f"'--gin.MeshConfig.ici={shape}'" in flags
  assert ranked[0].split()[5].split('+')[0] in flags.partition('REMAT_POLICY')[2]


def test_a_search_in_vain_says_so(plans):
  status, out, err = plans['search in vain']
  assert status == 1, err
  assert 'left out 1 x 1 x 1: parameters, optimizer state and gradients alone are too large' in out
  assert '0 compiled, 0 of them fit' in out


@pytest.mark.parametrize(
  'name, message',
  [
    ('no slice', '--topology=v5e:3x7: '),
    ('no slices', '--topology=0xv5e:2x2: '),
    ('no topology', 'give one such as v5e:4x4'),
  ],
)
def test_a_slice_that_there_is_not_is_answered_in_one_line(plans, name, message):
  status, out, err = plans[name]
  assert status == 2 and out == ''
  [line] = err.splitlines()
  assert line.startswith('t5x-lite: error') and message in line
