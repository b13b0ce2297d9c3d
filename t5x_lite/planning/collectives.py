"""What the devices of a compiled program send each other, from its HLO."""

import collections
import dataclasses
import math
import re

from t5x_lite.planning import hlo

KINDS = ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute', 'reduce-scatter')


@dataclasses.dataclass(frozen=True)
class Collective:
  """Instructions of one kind and size.

  Attributes:
    kind: one of `KINDS`.
    count: how often they run.
    sent_bytes: what each device sends in one of them, around a ring.
    between_slices: whether it goes over the data-centre network.
  """

  kind: str
  count: int
  sent_bytes: float
  between_slices: bool = False


def of(program: hlo.Program) -> list[Collective]:
  """Returns the collectives of a program, the most bytes first."""
  found = collections.Counter()
  for instruction, _, times in program.runs():
    if instruction.kind == 'send' and (sent := _between_slices(instruction)):
      found[*sent, True] += times
      continue
    within = [instruction]
    if instruction.kind == 'fusion':
      called = program.called(instruction)
      if called[0].startswith('async_collective_fusion'):
        continue  # It goes on with what another has started.
      within = [each for name in called for each, _ in program.within(name)]
      if any('"AsyncCollectiveDone"' in each.rest for each in within):
        continue
    for each in within:
      kind = each.kind.removesuffix('-start')
      if kind in KINDS:
        scattered = kind == 'all-reduce' and 'all-reduce-scatter' in instruction.rest
        kind = 'reduce-scatter' if scattered else kind
        found[kind, _sent_bytes(kind, each, scattered), False] += times
  made = [Collective(kind, count, sent, dcn) for (kind, sent, dcn), count in found.items()]
  return sorted(made, key=lambda each: -each.count * each.sent_bytes)


def _between_slices(send):
  """(kind, bytes) of what a device sends to those in its place in other slices; None if it does not."""
  kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.rest)
  if not kind:
    return None
  kind = kind[1].lower().replace('_', '-')
  kind = kind if kind in KINDS else 'collective-permute'
  slices = re.search(r'_xla_megascale_target="{([\d,]*)}', send.rest)
  number = len(slices[1].split(',')) if slices else 2
  return kind, _around_ring(kind, send.arrays[0].nbytes, number)


def _around_ring(kind, size, group):
  """Bytes that each of a group sends of an operand, as in Patarasuk and Yuan 2009, sections 3 and 4."""
  if kind == 'all-gather':
    return size * (group - 1)
  if kind == 'collective-permute':
    return size
  return size * (group - 1) / group * (2 if kind == 'all-reduce' else 1)


def _sent_bytes(kind, instruction, scattered):
  group = _group_size(instruction.rest)
  size = sum(array.nbytes for array in instruction.arrays if array.dtype != 'u32')
  # Of a result, which repeats the operand where the collective is asynchronous.
  if instruction.kind == 'collective-permute-start':
    size /= 2
  elif instruction.kind == 'all-gather-start':
    size /= group + 1
  elif kind == 'all-gather':
    size /= group
  elif kind == 'reduce-scatter' and not scattered:
    size *= group
  return _around_ring(kind, size, group)


def _group_size(rest):
  """Devices that take part, of one of the three forms of replica groups."""
  if listed := re.search(r'replica_groups=\{\{([\d,]*)\}', rest):
    return len(listed[1].split(','))
  if counted := re.search(r'replica_groups=\[(\d+),(\d+)\]', rest):
    return int(counted[2])
  if meshed := re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", meshed[2]))
  return 2
