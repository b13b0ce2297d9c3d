"""What `t5x-lite plan` says, in words and figures of one device."""

import collections
from collections.abc import Mapping, Sequence

import jax

from t5x_lite.planning import estimate, hlo

_GIB, _MIB = 2**30, 2**20
_HINTS = {
  'weights': 'divide them over more devices with MESH=@sharding.fsdp()',
  'activations': "keep less for the backward pass with REMAT_POLICY='minimal' or 'full', or take "
  'fewer rows at a time with a larger NUM_MICROBATCHES or a smaller BATCH_SIZE',
  'cache': 'take fewer inputs at a time with a smaller BATCH_SIZE, or shorter TASK_FEATURE_LENGTHS',
}


def of_memory(
  memory: estimate.Memory, program: hlo.Program, parts: Mapping[str, int], rest: str
) -> str:
  """Returns the lines on memory; with what to change, if it does not fit.

  Args:
    memory: of the program.
    program: as compiled.
    parts: bytes of what is known to be in it, by its name.
    rest: what all else is, 'activations' or 'cache' first, as there is something to do about these.
  """
  others = memory.peak - sum(parts.values())
  rows = [*parts.items(), (rest, others), ('peak', memory.peak)]
  lines = ['memory of one device, GiB', *(f'  {name:<50} {_gib(size)}' for name, size in rows)]
  if memory.limit is not None:
    lines.append(f'  {"there are":<50} {_gib(memory.limit)}')
  lines.append('largest buffers, GiB')
  for array, what in program.largest(3):
    kind = f'{array.dtype}[{", ".join(map(str, array.shape))}]'
    lines.append(f'  {kind:<50} {_gib(array.nbytes)}  {what}')
  if not memory.fits:
    weights = sum(size for name, size in parts.items() if name != 'cache')
    kind = (
      'weights' if weights > memory.peak / 2 else 'cache' if 'cache' in parts else 'activations'
    )
    lines.append(f'it does not fit: {_HINTS[kind]}')
  return '\n'.join(lines)


def of_time(what: str, roofline: estimate.Roofline, devices: Sequence[jax.Device]) -> str:
  """Returns the lines on work and time.

  Args:
    what: is done in that time.
    roofline: of the program.
    devices: all that it runs on.
  """
  rows = [
    ('work', f'{roofline.flops / 1e9:,.1f} GFLOP', roofline.flops_seconds),
    ('memory', f'{roofline.moved_bytes / _MIB:,.1f} MiB', roofline.memory_seconds),
    ('links', f'{roofline.sent_bytes / _MIB:,.1f} MiB', roofline.link_seconds),
  ]
  if roofline.network_bytes:
    amount = f'{roofline.network_bytes / _MIB:,.1f} MiB'
    rows.append(('between slices', amount, roofline.network_seconds))
  lines = [f'{what} on one of {len(devices)} {devices[0].device_kind}']
  lines += [f'  {name:<20} {amount:>15} {_seconds(seconds)}' for name, amount, seconds in rows]
  if roofline.seconds is not None:
    for name, seconds in (('all at once', roofline.seconds), ('in turn', roofline.serial_seconds)):
      lines.append(f'  {name:<20} {"":>15} {_seconds(seconds)}, MFU {roofline.mfu(seconds):.1%}')
  counts, sent = collections.Counter(), collections.Counter()
  for each in roofline.collectives:
    kind = each.kind + (' between slices' if each.between_slices else '')
    counts[kind] += each.count
    sent[kind] += each.count * each.sent_bytes
  if counts:
    lines.append('collectives, how often, and MiB that the device sends')
    lines += [
      f'  {kind:<34} {counts[kind]:>9,} {sent[kind] / _MIB:12,.1f}' for kind in sorted(counts)
    ]
  return '\n'.join(lines)


def _gib(size):
  return f'{size / _GIB:10.3f}'


def _seconds(seconds):
  return '' if seconds is None else f'{1e3 * seconds:12.2f} ms'
