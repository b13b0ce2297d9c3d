"""What a compiled program computes and moves, from its HLO, recomputation with it."""

import functools
import math
import re

import numpy as np

from t5x_lite.planning import hlo

_SLICES = {'dynamic-slice', 'gather', 'slice'}
# Of TPUs: room for a result, and parts of one that lie side by side.
_VIEWS = {'AllocateBuffer', 'ConcatBitcast'}


def flops(program: hlo.Program) -> float:
  """Returns the operations of all matrix products, two for each multiply and add."""
  total = 0.0
  for instruction, computation, times in program.runs():
    within = [(instruction, computation)]
    if instruction.kind == 'fusion':
      within = [each for name in program.called(instruction) for each in program.within(name)]
    total += times * sum(_flops(each, of) for each, of in within)
  return total


def _flops(instruction, computation):
  if instruction.kind == 'dot':
    shape = computation[instruction.operands[0]].arrays[0].shape
    axes = re.search(r'lhs_contracting_dims={([\d,]*)}', instruction.rest)[1]
    contracted = math.prod(shape[int(axis)] for axis in axes.split(',') if axis)
    return 2 * math.prod(instruction.arrays[0].shape) * contracted
  if instruction.kind == 'convolution':
    return _convolution_flops(instruction, computation)
  return 0


def _convolution_flops(instruction, computation):
  """A convolution, which a TPU's compiler makes of each product: positions in the padding cost nothing."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest).groups()
  arrays = [computation[name].arrays[0] for name in instruction.operands[:2]]
  inputs, kernel, result = (
    dict(zip(axes, array.shape, strict=True))
    for axes, array in zip(labels, (*arrays, instruction.arrays[0]), strict=True)
  )
  window = dict(re.findall(r'(\w+)=([\dx_\-]+)', _attribute('window', instruction.rest)))
  positions = 1
  for place, axis in enumerate(axis for axis in labels[1] if axis.isdecimal()):
    axis = str(place)
    padding = window['pad'].split('x')[place] if 'pad' in window else '0_0'
    stride, lhs_dilation, rhs_dilation = (
      int(window[name].split('x')[place]) if name in window else 1
      for name in ('stride', 'lhs_dilate', 'rhs_dilate')
    )
    positions *= _valid_positions(
      inputs[axis],
      kernel[axis],
      result[axis],
      int(padding.split('_')[0]),
      stride,
      lhs_dilation,
      rhs_dilation,
    )
  groups = int(_attribute('feature_group_count', instruction.rest) or 1)
  groups *= int(_attribute('batch_group_count', instruction.rest) or 1)
  return 2 * inputs['b'] * inputs['f'] * result['f'] * positions / groups


def _attribute(name, rest):
  found = re.search(rf'\b{name}=(?:{{([^}}]*)}}|(\d+))', rest)
  return (found[1] or found[2] or '') if found else ''


@functools.cache
def _valid_positions(inputs, kernel, result, padding, stride, lhs_dilation, rhs_dilation):
  """How many pairs of a result and a kernel element meet an input along one axis."""
  place = np.arange(result)[:, None] * stride + np.arange(kernel) * rhs_dilation - padding
  is_input = (place % lhs_dilation == 0) & (place >= 0) & (place < inputs * lhs_dilation)
  return int(np.count_nonzero(is_input))


def moved_bytes(program: hlo.Program) -> int:
  """Returns the bytes that all instructions read from and write to main memory, each for itself."""
  return sum(
    times * _moved(program, instruction, computation)
    for instruction, computation, times in program.runs()
  )


def _moved(program, instruction, computation):
  kind = instruction.kind
  if kind in hlo.VIEWS or kind in hlo.CONTROL or kind == 'async-start' or kind.endswith('-done'):
    return 0
  target = re.search(r'custom_call_target="(\w+)"', instruction.rest)
  if target and target[1] in _VIEWS:
    return 0
  result = _in_memory(instruction.arrays)
  operands = [computation[name] for name in instruction.operands if name in computation]
  if kind in _SLICES:
    return hlo.size(instruction.arrays) * (
      operands[0].arrays[0].in_memory + instruction.arrays[0].in_memory
    )
  if kind == 'dynamic-update-slice':
    return 2 * _in_memory(operands[1].arrays)
  if kind == 'fusion':
    return _moved_by_fusion(program, instruction, operands)
  if kind.endswith('-start') or kind in ('send', 'recv'):  # Its result repeats its operand.
    return result
  return result + sum(_in_memory(each.arrays) for each in operands)


def _moved_by_fusion(program, fusion, operands):
  [name, *_] = program.called(fusion)
  arrays, operands = list(fusion.arrays), list(operands)
  if name.startswith('async_collective_fusion'):
    # A collective goes on beside it, whose operands and results it has got from where that began.
    for place, operand in re.findall(r'{(\d+)}: \((\d+),', fusion.rest):
      arrays[int(place)] = operands[int(operand)] = None
  result = _in_memory(array for array in arrays if array is not None)
  total = 0
  for parameter, operand in zip(_parameters(program, name), operands, strict=True):
    if operand is not None and _in_memory(operand.arrays):
      taken, is_written_into = _taken(program, name, parameter)
      total += taken
      if is_written_into:
        result = max(result - hlo.size(parameter.arrays), 0)
  return total + result


def _taken(program, name, value):
  """Returns (the bytes that a fusion takes of a value, whether it is written into in its place).

  Where slices are all that is taken, or written, they alone count.
  """
  whole = hlo.size(value.arrays)
  taken, is_written_into = 0, False
  computation = program.computation(name)
  users = [each for each in computation.values() if value.name in each.operands]
  if not users:  # It is the result.
    return whole, False
  for each in users:
    of_each, is_written = whole, False
    if each.kind in _SLICES:
      of_each = hlo.size(each.arrays)
    elif each.kind == 'dynamic-update-slice' and each.operands[0] == value.name:
      of_each, is_written = hlo.size(computation[each.operands[1]].arrays), True
    elif each.kind == 'bitcast':
      of_each, is_written = _taken(program, name, each)
    elif each.kind == 'fusion':
      [inner, *_] = program.called(each)
      argument = _parameters(program, inner)[each.operands.index(value.name)]
      of_each, is_written = _taken(program, inner, argument)
    taken += of_each
    is_written_into |= is_written
  return min(taken, whole), is_written_into and taken < whole


def _parameters(program, name):
  found = [each for each in program.computation(name).values() if each.kind == 'parameter']
  return sorted(found, key=lambda each: int(each.rest))


def _in_memory(arrays):
  return sum(array.nbytes for array in arrays if array.in_memory)
