"""What a compiled program does, read from its HLO: what it moves and sends, loops counted as often as they run.

XLA's own cost analysis counts the body of a loop once.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-permute',
  'reduce-scatter',
)
_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'token': 0}
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_NAMED = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = ')
_CALLED = re.compile(r'\b(calls|to_apply|body|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)')
_MOVE_NOTHING = {
  'after-all',
  'bitcast',
  'constant',
  'get-tuple-element',
  'iota',
  'parameter',
  'partition-id',
  'tuple',
}
_SLICES = {'dynamic-slice', 'gather', 'slice'}


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of some type.

  Attributes:
    dtype: 'bf16'.
    shape: its dimensions.
    in_memory: whether it lies in the device's main memory, and not in a cache of the chip or in the host.
  """

  dtype: str
  shape: tuple[int, ...]
  in_memory: bool

  @property
  def nbytes(self) -> int:
    """Its bytes, without the padding of a layout."""
    bits = _BITS.get(self.dtype) or int(re.sub(r'^[a-z]+(\d+).*', r'\1', self.dtype) or 0)
    return math.ceil(math.prod(self.shape) * (0 if self.dtype == 'token' else bits) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of HLO.

  Attributes:
    name: in its computation.
    kind: such as 'dot' or 'fusion'.
    arrays: of its result, several of a tuple.
    operands: names.
    rest: attributes, and what a constant or a parameter has for operands.
  """

  name: str
  kind: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  rest: str

  @property
  def what(self) -> str:
    """The operation in the model that it is of, or its own name."""
    found = re.search(r'op_name="([^"]*)"', self.rest)
    return found[1] if found else self.name


@dataclasses.dataclass(frozen=True)
class Collective:
  """Instructions of one kind and size.

  Attributes:
    kind: one of `COLLECTIVES`.
    count: how often they run.
    sent_bytes: what each device sends in one of them, around a ring.
  """

  kind: str
  count: int
  sent_bytes: float


class Program:
  """The HLO of one device's program."""

  def __init__(self, text: str):
    """Reads the text of a compiled module."""
    self._computations: dict[str, dict[str, Instruction]] = {}
    current = None
    for line in text.splitlines():
      if header := _HEADER.match(line):
        current = self._computations.setdefault(header[2], {})
        if header[1]:
          self._entry = header[2]
      elif current is not None and (named := _NAMED.match(line)):
        instruction = _instruction(named, line[named.end() :])
        current[instruction.name] = instruction

  def _called(self, instruction: Instruction) -> list[str]:
    found = _CALLED.findall(instruction.rest)
    names = [name for _, text in found for name in re.findall(r'[\w.\-]+', text)]
    return [name for name in names if name in self._computations]

  def _trips(self, loop: Instruction) -> int:
    """How often a while loop runs: what is known, or what its condition compares with; 1 where that is not constant."""
    if known := re.search(r'known_trip_count\D*(\d+)', loop.rest):
      return int(known[1])
    condition = re.search(r'condition=%?([\w.\-]+)', loop.rest)[1]
    limits = [
      int(each.rest)
      for each in self._reachable(condition)
      if each.kind == 'constant' and each.rest.isdecimal()
    ]
    return max(limits, default=1)

  def _reachable(self, name: str) -> Iterator[Instruction]:
    for instruction in self._computations[name].values():
      yield instruction
      for called in self._called(instruction):
        yield from self._reachable(called)

  @functools.cached_property
  def _counts(self) -> Mapping[str, int]:
    """How often each computation runs; those of fusions and reductions do as part of others."""
    counts = collections.Counter()

    def visit(name, times):
      counts[name] += times
      for instruction in self._computations[name].values():
        inner = times * (self._trips(instruction) if instruction.kind == 'while' else 1)
        if instruction.kind in ('while', 'call', 'conditional') or 'async' in instruction.kind:
          for called in self._called(instruction):
            visit(called, inner)

    visit(self._entry, 1)
    return counts

  def collectives(self) -> list[Collective]:
    """Returns what the devices send each other, the most bytes first."""
    found = collections.Counter()
    for name, times in self._counts.items():
      for instruction in self._computations[name].values():
        within = [instruction]
        if instruction.kind == 'fusion':
          within = [
            each for called in self._called(instruction) for each in self._reachable(called)
          ]
        for each in within:
          kind = each.kind.removesuffix('-start')
          if kind in COLLECTIVES:
            scattered = kind == 'all-reduce' and 'all-reduce-scatter' in instruction.rest
            kind = 'reduce-scatter' if scattered else kind
            found[kind, _sent_bytes(kind, each, scattered)] += times
    made = [Collective(kind, count, sent) for (kind, sent), count in found.items()]
    return sorted(made, key=lambda each: -each.count * each.sent_bytes)

  def moved_bytes(self) -> int:
    """Returns the bytes that all instructions read from and write to main memory, each for itself."""
    total = 0
    for name, times in self._counts.items():
      computation = self._computations[name]
      total += times * sum(self._moved(each, computation) for each in computation.values())
    return total

  def _moved(self, instruction, computation):
    kind = instruction.kind
    if kind in _MOVE_NOTHING or kind in ('while', 'call', 'conditional') or kind.endswith('-done'):
      return 0
    if 'custom_call_target="AllocateBuffer"' in instruction.rest:
      return 0
    result = _nbytes(instruction.arrays)
    if kind in _SLICES:
      return 2 * result
    operands = [computation[name] for name in instruction.operands if name in computation]
    if kind == 'dynamic-update-slice':
      return 2 * _nbytes(operands[1].arrays)
    if kind == 'fusion':
      return self._moved_by_fusion(instruction, operands, result)
    if kind.endswith('-start'):  # Its result repeats its operand.
      return result
    return result + sum(_nbytes(each.arrays) for each in operands)

  def _moved_by_fusion(self, fusion, operands, result):
    [name, *_] = self._called(fusion)
    total = 0
    for parameter, operand in zip(self._parameters(name), operands, strict=True):
      if _nbytes(operand.arrays):
        taken, is_written_into = self._taken(name, parameter)
        total += taken
        if is_written_into:
          result = max(result - _size(parameter.arrays), 0)
    return total + result

  def _taken(self, computation, value):
    """Returns (the bytes that a fusion takes of a value, whether it is written into in its place).

    Where slices are all that is taken, or written, they alone count.
    """
    taken, is_written_into = 0, False
    for each in self._computations[computation].values():
      if value.name not in each.operands:
        continue
      if each.kind in _SLICES:
        taken += _size(each.arrays)
      elif each.kind == 'dynamic-update-slice' and each.operands[0] == value.name:
        taken += _size(self._computations[computation][each.operands[1]].arrays)
        is_written_into = True
      elif each.kind in ('bitcast', 'fusion'):
        inner, argument = computation, each
        if each.kind == 'fusion':
          [inner, *_] = self._called(each)
          argument = self._parameters(inner)[each.operands.index(value.name)]
        of_inner, is_written = self._taken(inner, argument)
        taken += of_inner
        is_written_into |= is_written
      else:
        return _size(value.arrays), False
    return min(taken, _size(value.arrays)), is_written_into

  def _parameters(self, name):
    found = [each for each in self._computations[name].values() if each.kind == 'parameter']
    return sorted(found, key=lambda each: int(each.rest))

  def largest(self, number: int) -> list[tuple[Array, str]]:
    """Returns the largest results in main memory, each shape once, with what they are of."""
    found = {}
    for name in self._counts:
      for instruction in self._computations[name].values():
        if instruction.kind in _MOVE_NOTHING or instruction.kind in ('while', 'call'):
          continue
        for array in instruction.arrays:
          if array.in_memory:
            found.setdefault((array.dtype, array.shape), (array, instruction.what))
    return sorted(found.values(), key=lambda each: -each[0].nbytes)[:number]


def _instruction(named, text):
  end = _end(text, 0) if text.startswith('(') else text.index(' ')
  kind, _, arguments = text[end:].strip().partition('(')
  close = _end('(' + arguments, 0) - 1
  inside, rest = arguments[: close - 1], arguments[close:].lstrip(', ')
  return Instruction(
    name=named[1],
    kind=kind,
    arrays=tuple(_arrays(text[:end])),
    operands=tuple(re.findall(r'%([\w.\-]+)', inside)),
    rest=inside if kind in ('constant', 'parameter') else rest,
  )


def _end(text, start):
  """Where the bracket that opens at `start` is closed."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] == '(') - (text[place] == ')')
    if not depth:
      return place + 1
  return len(text)


def _arrays(text) -> Iterator[Array]:
  for dtype, dimensions, layout in _ARRAY.findall(text):
    shape = tuple(int(each) for each in dimensions.split(',') if each)
    yield Array(dtype, shape, in_memory=not re.search(r'S\([1-9]', layout))


def _nbytes(arrays: Sequence[Array]) -> int:
  return sum(array.nbytes for array in arrays if array.in_memory)


def _size(arrays: Sequence[Array]) -> int:
  return sum(array.nbytes for array in arrays)


def _sent_bytes(kind, instruction, scattered):
  """What each device of a group sends around a ring, as in Patarasuk and Yuan 2009, sections 3 and 4."""
  group = _group_size(instruction.rest)
  size = sum(array.nbytes for array in instruction.arrays if array.dtype != 'u32')
  share = (group - 1) / group
  if kind == 'collective-permute':
    return size / 2 if instruction.kind.endswith('-start') else size
  if kind == 'all-gather' and instruction.kind.endswith('-start'):
    size *= group / (group + 1)  # Its result repeats its operand.
  if kind == 'all-reduce':
    return 2 * size * share
  if kind == 'reduce-scatter' and not scattered:
    return size * (group - 1)  # Of the part that each has in the end.
  return size * share


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
