"""What is read from compiled programs, against what they were written to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import sharding
from t5x_lite.planning import hlo


def program_of(function, *arguments, **settings):
  return hlo.Program(jax.jit(function, **settings).lower(*arguments).compile().as_text())


@pytest.fixture
def mesh():
  if jax.device_count() < 8:
    pytest.skip('needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8')
  return sharding.make_mesh(sharding.MeshConfig(ici=(2, 4, 1)))


def array(mesh, shape, *axes):
  return jax.ShapeDtypeStruct(
    shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes))
  )


def test_bytes_are_counted_as_often_as_a_loop_runs():
  x, w = jnp.ones((8, 64)), jnp.ones((64, 64))

  def times(n):
    return program_of(lambda x, w: jax.lax.fori_loop(0, n, lambda _, x: x @ w, x), x, w)

  once, often = times(3).moved_bytes(), times(11).moved_bytes()
  step = (often - once) / 8
  weights, rows = w.nbytes, x.nbytes
  assert weights + 2 * rows <= step <= weights + 6 * rows


def test_of_stacked_layers_one_is_read_at_a_time():
  stacked = jnp.ones((16, 64, 64))

  def run(x, stacked):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, stacked)[0]

  moved = program_of(run, jnp.ones((8, 64)), stacked).moved_bytes()
  assert stacked.nbytes < moved < 6 * stacked.nbytes


@pytest.mark.parametrize('trips', [1, 5])
def test_collectives_are_counted_with_what_a_device_sends(mesh, trips):
  """The rows are divided over the 4 devices of fsdp, whose products are summed up."""
  x, w = array(mesh, (8, 64), None, 'fsdp'), array(mesh, (64, 64), 'fsdp', None)

  def run(x, w):
    def step(_, x):
      return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), x_sharding)

    return jax.lax.fori_loop(0, trips, step, x)

  x_sharding = x.sharding
  with jax.set_mesh(mesh):
    found = program_of(run, x, w, out_shardings=x_sharding).collectives()
  reduced = [each for each in found if each.kind in ('all-reduce', 'reduce-scatter')]
  assert sum(each.count for each in reduced) == trips
  factor = {'all-reduce': 2, 'reduce-scatter': 1}[reduced[0].kind]
  assert reduced[0].sent_bytes == factor * 4 * 8 * 64 * 3 / 4


def test_gathering_sends_what_the_others_have(mesh):
  x = array(mesh, (64, 16), 'fsdp', None)
  with jax.set_mesh(mesh):
    [found] = program_of(lambda x: x + 1, x, out_shardings=sharding.replicated(mesh)).collectives()
  assert found == hlo.Collective('all-gather', 1, 4 * 64 * 16 * 3 / 4)


def test_the_largest_buffers_say_what_they_are_of():
  def wide(x):
    return jnp.cos(x @ x.T)

  [(largest, what)] = program_of(wide, np.ones((512, 8), np.float32)).largest(1)
  assert largest.shape == (512, 512) and largest.nbytes == 4 * 512 * 512
  assert 'jit(wide)' in what


# The form of a TPU's programs: memory spaces, tiles, asynchronous collectives in loops without a known number of trips.
TPU = """\
HloModule jit_run, is_scheduled=true

%condition (p: (s32[], bf16[32,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  %p = (s32[]{:T(128)}, bf16[32,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p.1: (s32[], bf16[32,128])) -> (s32[], bf16[32,128]) {
  %p.1 = (s32[]{:T(128)}, bf16[32,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x = bf16[32,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p.1), index=1
  %start = (bf16[32,128]{1,0:T(8,128)(2,1)}, bf16[128,128]{1,0:T(8,128)(2,1)S(1)}) all-gather-start(%x), \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  %done = bf16[128,128]{1,0:T(8,128)(2,1)S(1)} all-gather-done(%start)
  %permuted = (bf16[32,128]{1,0:T(8,128)(2,1)}, bf16[32,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %permuted.1 = bf16[32,128]{1,0:T(8,128)(2,1)} collective-permute-done(%permuted)
  %y = bf16[32,128]{1,0:T(8,128)(2,1)} dot(%permuted.1, %done), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %next = (s32[]{:T(128)}, bf16[32,128]{1,0:T(8,128)(2,1)}) tuple(%i.1, %y)
}

ENTRY %main (x.1: bf16[32,128]) -> bf16[32,128] {
  %x.1 = bf16[32,128]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start.1 = (s32[]{:T(128)}, bf16[32,128]{1,0:T(8,128)(2,1)}) tuple(%zero, %x.1)
  %loop = (s32[]{:T(128)}, bf16[32,128]{1,0:T(8,128)(2,1)}) while(%start.1), condition=%condition, body=%body
  ROOT %result = bf16[32,128]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""


def test_programs_of_tpus_are_read():
  program = hlo.Program(TPU)
  rows = 32 * 128 * 2
  assert program.collectives() == [
    hlo.Collective('all-gather', 8, 3 * rows),
    hlo.Collective('collective-permute', 8, rows),
  ]
  # Each time the gathered rows, which lie in the chip, cost nothing but their operand and its copy.
  assert program.moved_bytes() % 8 == 0
  assert program.moved_bytes() // 8 == rows + 2 * rows + 2 * rows


NESTED = """\
HloModule jit_run

%sliced (stack: f32[16,64,64], i: s32[]) -> f32[64,64] {
  %stack = f32[16,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,64,64]{2,1,0} dynamic-slice(%stack, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %layer = f32[64,64]{1,0} bitcast(%one)
}

%multiplied (x: f32[8,64], stack.1: f32[16,64,64], i.1: s32[]) -> f32[8,64] {
  %x = f32[8,64]{1,0} parameter(0)
  %i.1 = s32[] parameter(2)
  %stack.1 = f32[16,64,64]{2,1,0} parameter(1)
  %seen = f32[16,64,64]{2,1,0} bitcast(%stack.1)
  %layer.1 = f32[64,64]{1,0} fusion(%seen, %i.1), kind=kLoop, calls=%sliced
  ROOT %y = f32[8,64]{1,0} dot(%x, %layer.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%kept (all: f32[16,8,64], y.1: f32[8,64], i.2: s32[]) -> f32[16,8,64] {
  %all = f32[16,8,64]{2,1,0} parameter(0)
  %y.1 = f32[8,64]{1,0} parameter(1)
  %i.2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %new = f32[1,8,64]{2,1,0} bitcast(%y.1)
  ROOT %written = f32[16,8,64]{2,1,0} dynamic-update-slice(%all, %new, %i.2, %zero.1, %zero.1)
}

ENTRY %main (x.1: f32[8,64], stack.2: f32[16,64,64], all.1: f32[16,8,64]) -> f32[16,8,64] {
  %x.1 = f32[8,64]{1,0} parameter(0)
  %stack.2 = f32[16,64,64]{2,1,0} parameter(1)
  %all.1 = f32[16,8,64]{2,1,0} parameter(2)
  %i.3 = s32[] constant(3)
  %y.2 = f32[8,64]{1,0} fusion(%x.1, %stack.2, %i.3), kind=kOutput, calls=%multiplied
  ROOT %result = f32[16,8,64]{2,1,0} fusion(%all.1, %y.2, %i.3), kind=kLoop, calls=%kept
}
"""


def test_of_what_fusions_within_fusions_take_slices_of_the_slices_count():
  layer, rows, scalar = 4 * 64 * 64, 4 * 8 * 64, 4
  product = rows + layer + scalar + rows
  writing = rows + rows + scalar  # What is written, which is read, and where.
  assert hlo.Program(NESTED).moved_bytes() == product + writing
