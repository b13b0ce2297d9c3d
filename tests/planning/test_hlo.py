"""What is read from compiled programs, against what they were written to do."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import sharding
from t5x_lite.planning import collectives, hlo, work


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

  once, often = work.moved_bytes(times(3)), work.moved_bytes(times(11))
  step = (often - once) / 8
  weights, rows = w.nbytes, x.nbytes
  assert weights + 2 * rows <= step <= weights + 6 * rows


def test_of_stacked_layers_one_is_read_at_a_time():
  stacked = jnp.ones((16, 64, 64))

  def run(x, stacked):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, stacked)[0]

  moved = work.moved_bytes(program_of(run, jnp.ones((8, 64)), stacked))
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
    found = collectives.of(program_of(run, x, w, out_shardings=x_sharding))
  reduced = [each for each in found if each.kind in ('all-reduce', 'reduce-scatter')]
  assert sum(each.count for each in reduced) == trips
  factor = {'all-reduce': 2, 'reduce-scatter': 1}[reduced[0].kind]
  assert reduced[0].sent_bytes == factor * 4 * 8 * 64 * 3 / 4


def test_gathering_sends_what_the_others_have(mesh):
  x = array(mesh, (64, 16), 'fsdp', None)
  with jax.set_mesh(mesh):
    program = program_of(lambda x: x + 1, x, out_shardings=sharding.replicated(mesh))
  [found] = collectives.of(program)
  assert found == collectives.Collective('all-gather', 1, 4 * 64 * 16 * 3 / 4)


def test_products_are_counted_as_often_as_a_loop_runs():
  x, w = jnp.ones((8, 64)), jnp.ones((16, 64, 64))
  program = program_of(lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], x, w)
  assert work.flops(program) == 16 * 2 * 8 * 64 * 64


@pytest.mark.parametrize(
  'x, kernel, settings',
  [
    ((2, 9, 9, 4), (3, 3, 4, 8), {'window_strides': (2, 1), 'padding': 'SAME'}),
    ((2, 9, 9, 4), (3, 3, 4, 8), {'padding': ((2, 0), (1, 3)), 'rhs_dilation': (2, 1)}),
    ((2, 5, 5, 4), (2, 3, 4, 8), {'padding': ((0, 0), (0, 0)), 'lhs_dilation': (3, 2)}),
    ((2, 9, 9, 4), (3, 3, 1, 8), {'padding': 'SAME', 'feature_group_count': 4}),
  ],
)
def test_of_convolutions_products_with_padding_do_not_count(x, kernel, settings):
  """As many as the sum of all results of ones, each of which has counted its own."""
  settings = {'window_strides': (1, 1), 'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')} | settings

  def run(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, **settings)

  x, kernel = jnp.ones(x), jnp.ones(kernel)
  assert work.flops(program_of(run, x, kernel)) == 2 * jnp.sum(run(x, kernel))


def test_a_loop_is_told_from_what_runs_around_it():
  def run(x, y):
    y = jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y), y)
    return jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, c[1] @ x), (0, x @ x)), y

  around, body, loop = program_of(run, jnp.ones((64, 64)), jnp.ones(8)).split()
  assert work.flops(around) == work.flops(body) == 2 * 64**3
  assert sum(array.shape == (64, 64) for array in loop.arrays) == 2


# A loop that the compiler has unrolled by two, whose counter a fusion counts.
UNROLLED = """\
HloModule jit_run

%counted (n: s32[]) -> s32[] {
  %n = s32[] parameter(0)
  %one = s32[] constant(1)
  %more = s32[] add(%n, %one)
  ROOT %two = s32[] add(%one, %more)
}

%condition (p: (f32[8,8], s32[])) -> pred[] {
  %p = (f32[8,8], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=1
  %limit = s32[] constant(8)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p.1: (f32[8,8], s32[])) -> (f32[8,8], s32[]) {
  %p.1 = (f32[8,8], s32[]) parameter(0)
  %x = f32[8,8] get-tuple-element(%p.1), index=0
  %y = f32[8,8] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[8,8] dot(%y, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %i.1 = s32[] get-tuple-element(%p.1), index=1
  %next = s32[] fusion(%i.1), kind=kLoop, calls=%counted
  %copied = s32[] copy(%next)
  ROOT %both = (f32[8,8], s32[]) tuple(%z, %copied)
}

ENTRY %main (x.1: f32[8,8]) -> f32[8,8] {
  %x.1 = f32[8,8] parameter(0)
  %zero = s32[] constant(0)
  %start = (f32[8,8], s32[]) tuple(%x.1, %zero)
  %loop = (f32[8,8], s32[]) while(%start), condition=%condition, body=%body
  ROOT %result = f32[8,8] get-tuple-element(%loop), index=0
}
"""


@pytest.mark.parametrize('is_newer', [False, True])
def test_loops_that_count_by_twos_run_half_as_often(is_newer):
  text = UNROLLED
  if is_newer:  # Compilers name the elements of a tuple where they are used.
    text = re.sub(r'  %\w[\w.]* = \S+ get-tuple-element.*\n', '', text)
    text = re.sub(r'%x([,)])', r'%p.1#0\1', text).replace('%i.1', '%p.1#1').replace('%i,', '%p#1,')
  assert work.flops(hlo.Program(text)) == 4 * 2 * 2 * 8**3


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
  assert collectives.of(program) == [
    collectives.Collective('all-gather', 8, 3 * rows),
    collectives.Collective('collective-permute', 8, rows),
  ]
  # Each time the gathered rows, which lie in the chip, cost nothing but their operand and its copy.
  assert work.moved_bytes(program) == 8 * (rows + 2 * rows + 2 * rows)
  assert work.flops(program) == 8 * 2 * 32 * 128 * 128


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
  assert work.moved_bytes(hlo.Program(NESTED)) == product + writing


# A collective that goes on beside other work, in three fusions; a slice of an array that is brought into the chip; and
# what is exchanged with other slices of TPUs.
BESIDE = """\
HloModule jit_run

%begin (p: bf16[32,128]) -> (bf16[32,128], bf16[128,128], u32[]) {
  %p = bf16[32,128]{1,0} parameter(0)
  %gathered = bf16[128,128]{1,0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %begun = (bf16[32,128]{1,0}, bf16[128,128]{1,0}, u32[]{:S(2)}) custom-call(%gathered), \
custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (p.1: bf16[32,128], p.2: bf16[128,128], p.3: bf16[64,64]) -> (bf16[64,64], bf16[32,128], \
bf16[128,128]) {
  %p.1 = bf16[32,128]{1,0} parameter(0)
  %p.2 = bf16[128,128]{1,0} parameter(1)
  %gathered.1 = bf16[128,128]{1,0} all-gather(%p.1), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  %p.3 = bf16[64,64]{1,0} parameter(2)
  %dot = bf16[64,64]{1,0} dot(%p.3, %p.3), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %both = (bf16[64,64]{1,0}, bf16[32,128]{1,0}, bf16[128,128]{1,0}) tuple(%dot, %p.1, %p.2)
}

%end (p.4: bf16[32,128], p.5: bf16[128,128]) -> bf16[128,128] {
  %p.4 = bf16[32,128]{1,0:S(1)} parameter(0)
  %p.5 = bf16[128,128]{1,0:S(1)} parameter(1)
  %gathered.2 = bf16[128,128]{1,0} all-gather(%p.4), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %ended = bf16[128,128]{1,0:S(1)} custom-call(%p.5, %gathered.2), custom_call_target="AsyncCollectiveDone"
}

%sliced (p.6: f32[8,128]) -> f32[2,128] {
  %p.6 = f32[8,128]{1,0} parameter(0)
  ROOT %slice = f32[2,128]{1,0:S(1)} slice(%p.6), slice={[0:2], [0:128]}
}

ENTRY %main (x: bf16[32,128], y: bf16[64,64], z: f32[8,128]) -> bf16[128,128] {
  %x = bf16[32,128]{1,0:S(1)} parameter(0)
  %y = bf16[64,64]{1,0} parameter(1)
  %z = f32[8,128]{1,0} parameter(2)
  %start = (bf16[32,128]{1,0:S(1)}, bf16[128,128]{1,0:S(1)}, u32[]{:S(2)}) fusion(%x), kind=kCustom, calls=%begin
  %a = bf16[32,128]{1,0:S(1)} get-tuple-element(%start), index=0
  %b = bf16[128,128]{1,0} get-tuple-element(%start), index=1
  %beside = (bf16[64,64]{1,0}, bf16[32,128]{1,0:S(1)}, bf16[128,128]{1,0}) fusion(%a, %b, %y), kind=kOutput, \
output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%async_collective_fusion.1
  %c = bf16[32,128]{1,0:S(1)} get-tuple-element(%beside), index=1
  %d = bf16[128,128]{1,0:S(1)} get-tuple-element(%beside), index=2
  %fetched = ((f32[8,128]{1,0}), f32[2,128]{1,0:S(1)}, s32[]{:S(2)}) async-start(%z), calls=%sliced
  %after = token[] after-all()
  %sent = (f32[2,128]{1,0:S(1)}, u32[]{:S(2)}, token[]) send(%z, %after), channel_id=9, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2,3,4}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %done = bf16[128,128]{1,0:S(1)} fusion(%c, %d), kind=kCustom, calls=%end
}
"""


def test_what_goes_on_beside_other_work_counts_once():
  program = hlo.Program(BESIDE)
  assert collectives.of(program) == [
    collectives.Collective('all-gather', 1, 3 * 32 * 128 * 2),
    collectives.Collective('all-reduce', 1, 2 * 4 * 2 * 128 * 3 / 4, between_slices=True),
  ]
  assert work.flops(program) == 2 * 64**3
  # The product's operand and result, and the slice.
  assert work.moved_bytes(program) == 2 * 2 * 64 * 64 + 4 * 2 * 128
