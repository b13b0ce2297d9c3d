"""What `t5x-lite plan` says, in words and figures of one device."""

import collections
from collections.abc import Sequence

import jax

from t5x_lite import sharding
from t5x_lite.planning import estimate

_GIB = 2**30
_HINTS = {
  'weights': 'divide them over more devices with MESH=@sharding.fsdp()',
  'activations': "keep less for the backward pass with REMAT_POLICY='minimal' or 'full', or take "
  'fewer rows at a time with a larger NUM_MICROBATCHES or a smaller BATCH_SIZE',
}


def of_memory(memory: estimate.Memory, state) -> str:
  """Returns the lines on memory; with what to change, if it does not fit.

  Args:
    memory: of the program.
    state: the abstract `TrainState`.
  """
  params = sharding.bytes_per_device(state.params)
  optimizer = sharding.bytes_per_device(state.opt_state)
  rest = memory.peak - params - optimizer
  rows = [
    ('parameters', params),
    ('optimizer state', optimizer),
    ('activations, gradients, the batch and the program', rest),
    ('peak', memory.peak),
  ]
  lines = ['memory of one device, GiB', *(f'  {name:<50} {_gib(size)}' for name, size in rows)]
  if memory.limit is not None:
    lines.append(f'  {"there are":<50} {_gib(memory.limit)}')
  lines.append('largest buffers, GiB')
  for array, what in memory.largest:
    kind = f'{array.dtype}[{", ".join(map(str, array.shape))}]'
    lines.append(f'  {kind:<50} {_gib(array.nbytes)}  {what}')
  if not memory.fits:
    hint = _HINTS['weights' if params + optimizer > rest else 'activations']
    lines.append(f'it does not fit: {hint}')
  return '\n'.join(lines)


def of_time(roofline: estimate.Roofline, devices: Sequence[jax.Device]) -> str:
  """Returns the lines on work and time.

  Args:
    roofline: of the program.
    devices: all that it runs on.
  """
  rows = [
    ('work', f'{roofline.flops / 1e12:.2f} TFLOP', roofline.flops_seconds),
    ('memory', f'{roofline.moved_bytes / _GIB:.2f} GiB', roofline.memory_seconds),
    ('links', f'{roofline.sent_bytes / _GIB:.2f} GiB', roofline.link_seconds),
  ]
  lines = [f'one step on one of {len(devices)} {devices[0].device_kind}']
  lines += [f'  {name:<20} {amount:>15} {_seconds(seconds)}' for name, amount, seconds in rows]
  if roofline.seconds is not None:
    mfu = roofline.flops_seconds / roofline.seconds
    lines.append(f'  {"at least":<20} {"":>15} {_seconds(roofline.seconds)}, MFU at most {mfu:.0%}')
  counts, sent = collections.Counter(), collections.Counter()
  for each in roofline.collectives:
    counts[each.kind] += each.count
    sent[each.kind] += each.count * each.sent_bytes
  lines.append('collectives, how often, and GiB that the device sends')
  lines += [f'  {kind:<20} {counts[kind]:>15,} {_gib(sent[kind])}' for kind in sorted(counts)]
  return '\n'.join(lines)


def _gib(size):
  return f'{size / _GIB:10.3f}'


def _seconds(seconds):
  return '' if seconds is None else f'{1e3 * seconds:12.2f} ms'
