"""Compiled programs, read from their HLO: what runs, how often, on arrays of which shapes.

XLA's own cost analysis counts the body of a loop once.
"""

import collections
import copy
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'token': 0}
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_NAMED = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_CALLED = re.compile(r'\b(calls|to_apply|body|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)')
# What makes no array of its own, and what others run in.
VIEWS = {
  'after-all',
  'bitcast',
  'constant',
  'get-tuple-element',
  'iota',
  'parameter',
  'partition-id',
  'tuple',
}
CONTROL = {'while', 'call', 'conditional'}


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
    bits = _BITS.get(self.dtype)
    if bits is None:
      bits = int(re.match(r'[a-z]+(\d+)', self.dtype)[1])
    return math.ceil(math.prod(self.shape) * bits / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of HLO.

  Attributes:
    name: in its computation.
    kind: such as 'dot' or 'fusion'.
    arrays: of its result, several of a tuple.
    operands: names.
    rest: attributes, and what a constant or a parameter has for operands.
    is_root: whether it is the result of its computation.
  """

  name: str
  kind: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  rest: str
  is_root: bool = False

  @property
  def what(self) -> str:
    """The operation in the model that it is of, or its own name."""
    found = re.search(r'op_name="([^"]*)"', self.rest)
    return found[1] if found else self.name


class Program:
  """The HLO of one device's program, or of a part of it."""

  def __init__(self, text: str):
    """Reads the text of a compiled module."""
    self._computations: dict[str, dict[str, Instruction]] = {}
    self._left_out = None
    current = None
    for line in text.splitlines():
      if header := _HEADER.match(line):
        current = self._computations.setdefault(header[2], {})
        if header[1]:
          self._entry = header[2]
      elif current is not None and (named := _NAMED.match(line)):
        instruction = _instruction(named, line[named.end() :])
        current[instruction.name] = instruction
        for operand in instruction.operands:
          if '#' in operand:
            current.setdefault(operand, _element(current, operand))

  def called(self, instruction: Instruction) -> list[str]:
    """Returns the names of the computations that an instruction calls, but for conditions of loops."""
    found = _CALLED.findall(instruction.rest)
    names = [name for _, text in found for name in re.findall(r'[\w.\-]+', text)]
    return [name for name in names if name in self._computations]

  def _trips(self, loop: Instruction) -> int:
    """How often a while loop runs: what is known, or by what its condition and its body do with a counter from 0.

    1, where the condition compares with nothing constant.
    """
    if known := re.search(r'known_trip_count\D*(\d+)', loop.rest):
      return int(known[1])
    condition, body = (
      re.search(rf'{name}=%?([\w.\-]+)', loop.rest)[1] for name in ('condition', 'body')
    )
    limits = [
      int(each.rest)
      for each, _ in self.within(condition)
      if each.kind == 'constant' and each.rest.isdecimal()
    ]
    counters = {
      each.rest
      for each in self._computations[condition].values()
      if each.kind == 'get-tuple-element'
    }
    # Loops that the compiler has unrolled count by more than one.
    step = max((self._step(body, counter) for counter in counters), default=1)
    return math.ceil(max(limits, default=1) / step)

  def _step(self, body: str, counter: str) -> int:
    """What the body of a loop adds to an element of its tuple, 'index=3'; 1 if that is not constant."""
    computation = self._computations[body]
    [root] = [each for each in computation.values() if each.is_root]
    place = int(re.search(r'index=(\d+)', counter)[1])
    if root.kind != 'tuple':
      return 1
    added = self._added(computation, root.operands[place])
    return max(added or 1, 1)

  def _added(self, computation, name, arguments=None) -> int | None:
    """The sum of constants that an integer is more than what it was made from; None if it is no such sum."""
    value = computation[name]
    if value.kind in ('get-tuple-element', 'parameter'):
      return arguments[int(value.rest)] if arguments and value.kind == 'parameter' else 0
    if value.kind in ('copy', 'bitcast'):
      return self._added(computation, value.operands[0], arguments)
    if value.kind == 'fusion':
      inner = self._computations[self.called(value)[0]]
      [root] = [each for each in inner.values() if each.is_root]
      given = [self._added(computation, operand, arguments) for operand in value.operands]
      return self._added(inner, root.name, given)
    if value.kind == 'add':
      total = 0
      for operand in value.operands:
        of = computation[operand]
        if of.kind == 'constant':
          part = int(of.rest) if of.rest.isdecimal() else None
        else:
          part = self._added(computation, operand, arguments)
        if part is None:
          return None
        total += part
      return total
    return None

  def computation(self, name: str) -> Mapping[str, Instruction]:
    """Returns the instructions of a computation by their names."""
    return self._computations[name]

  def within(self, name: str) -> Iterator[tuple[Instruction, Mapping[str, Instruction]]]:
    """Yields the instructions of a computation and of all that it calls, each with its computation."""
    computation = self._computations[name]
    for instruction in computation.values():
      yield instruction, computation
      for called in self.called(instruction):
        yield from self.within(called)

  def runs(self) -> Iterator[tuple[Instruction, Mapping[str, Instruction], int]]:
    """Yields what runs by itself, fusions whole: (instruction, its computation, how often)."""
    for name, times in self._counts.items():
      computation = self._computations[name]
      for instruction in computation.values():
        if instruction.name != self._left_out:
          yield instruction, computation, times

  @functools.cached_property
  def _counts(self) -> Mapping[str, int]:
    """How often each computation runs; those of fusions and reductions do as part of others."""
    counts = collections.Counter()

    def visit(name, times):
      counts[name] += times
      for instruction in self._computations[name].values():
        if instruction.name == self._left_out:
          continue
        inner = times * (self._trips(instruction) if instruction.kind == 'while' else 1)
        if instruction.kind in CONTROL or instruction.kind == 'async-start':
          for called in self.called(instruction):
            visit(called, inner)

    visit(self._entry, 1)
    return counts

  def split(self) -> tuple['Program', 'Program', Instruction]:
    """Returns (what runs around the loop that carries most bytes, one run of its body, the loop)."""
    entry = self._computations[self._entry].values()
    loop = max((each for each in entry if each.kind == 'while'), key=lambda each: size(each.arrays))
    around, body = copy.copy(self), copy.copy(self)
    around._left_out = loop.name
    body._entry = re.search(r'body=%?([\w.\-]+)', loop.rest)[1]
    for part in (around, body):
      part.__dict__.pop('_counts', None)
    return around, body, loop

  def largest(self, number: int) -> list[tuple[Array, str]]:
    """Returns the largest results in main memory, each shape once, with what they are of."""
    found = {}
    for instruction, _, _ in self.runs():
      if instruction.kind in VIEWS or instruction.kind in CONTROL:
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
    name=named[2],
    kind=kind,
    arrays=tuple(_arrays(text[:end])),
    operands=tuple(re.findall(r'%([\w.\-]+(?:#\d+)?)', inside)),
    rest=inside if kind in ('constant', 'parameter') else rest,
    is_root=bool(named[1]),
  )


def _element(computation, name):
  """The element of a tuple that newer compilers call 'name#3', as the instruction that takes it."""
  whole, _, place = name.partition('#')
  array = computation[whole].arrays[int(place)]
  return Instruction(name, 'get-tuple-element', (array,), (whole,), f'index={place}')


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


def size(arrays: Sequence[Array]) -> int:
  """Returns the bytes of arrays."""
  return sum(array.nbytes for array in arrays)
