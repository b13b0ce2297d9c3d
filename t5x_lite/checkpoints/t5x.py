"""T5X's checkpoints: its native ones and those it wrote with Orbax.

Their parameters have our names, which are theirs. What differs in some of their models:

- `examples/scalable_t5` scans: `encoder/encoder/...` or, in older versions, `encoder/layers/...`
  has the layers on axis 1 of each array, and every layer has its own relative position table.
- Its attention kernels are [embed, heads, head_dim] and [heads, head_dim, embed].
- Adafactor's `v_row` of a kernel with three axes or more has the `embed` axis, by the logical
  rules of T5X; of a matrix it has the shorter axis, as in optax.
"""

import dataclasses
import math
import re

from etils import epath

from t5x_lite import errors, remote
from t5x_lite.checkpoints import foreign, t5x_arrays

_STEP = re.compile(r'checkpoint_(\d+)')
_SCANNED = re.compile(r'(?P<stack>encoder|decoder)/(?:layers|(?P=stack))/(?P<rest>.+)')
_LAYER_AXIS = 1
_SLOT = re.compile(r'state/param_states/(?P<param>.+)/(?P<slot>m|v|v_row|v_col)')
# Kernels whose last axis is `embed`, not the first.
_BACK_TO_EMBED = ('out/kernel', 'wo/kernel')
# What T5X keeps where a parameter has no use for a slot.
_PLACEHOLDERS = ((0,), (1,))


def is_checkpoint(path: epath.Path) -> bool:
  """Whether T5X wrote this file or folder, or checkpoints in this folder."""
  return _find(path) is not None


def open_checkpoint(path: epath.Path) -> foreign.Weights:
  """Opens a checkpoint; only names, shapes and the step are read yet.

  Args:
    path: a folder `checkpoint_N`, a folder that holds several, for the newest, or a msgpack file.

  Raises:
    UserError: there is none, a part of it is missing or damaged, or it holds no parameters.
  """
  path = remote.path(path)  # TensorStore wants absolute paths.
  found = _find(path)
  if found is None:
    raise errors.UserError(
      f'there is no checkpoint of T5X at {path}: give a folder checkpoint_N, a folder that holds '
      'some, or a msgpack file'
    )
  arrays = _tree(found, t5x_arrays.open_arrays(found))
  params, slots = {}, {}
  for name, array in arrays.items():
    if name.startswith('target/'):
      params |= _views(name.removeprefix('target/'), array)
  for name, array in arrays.items():
    if (match := _SLOT.fullmatch(name)) and array.shape not in _PLACEHOLDERS:
      if param := arrays.get(f'target/{match["param"]}'):
        slots |= _slot_views(match['slot'], match['param'], array, param.shape)
  return foreign.Weights(
    path=str(found),
    model=None,
    vocabulary=None,
    shapes={name: view.shape for name, view in params.items()},
    read=_Reader(params | slots).read,
    step=_number(arrays, 'state/step'),
    slots={name: view.shape for name, view in slots.items()},
  )


def _find(path):
  if (found := t5x_arrays.find(path)) or not path.is_dir():
    return found
  steps = {
    int(match[1]): child for child in path.iterdir() if (match := _STEP.fullmatch(child.name))
  }
  for step in sorted(steps, reverse=True):
    if found := t5x_arrays.find(steps[step]):
      return found
  return None


def _tree(found, arrays) -> dict[str, t5x_arrays.Array]:
  """The arrays of the train state, whose parameters are under `target/`."""
  version = _number(arrays, 'version')
  if version is not None and version < 2:
    raise errors.UserError(f'{found} has version {version} of the format; T5X has 2 and 3')
  state = {
    name.removeprefix('optimizer/'): array
    for name, array in arrays.items()
    if version is None or name.startswith('optimizer/')
  }
  if 'token_embedder/embedding' in state:  # The parameters and nothing else.
    return {f'target/{name}': array for name, array in state.items()}
  if 'target/token_embedder/embedding' not in state:
    raise errors.UserError(
      f'{found} holds no T5 of T5X: there is no target/token_embedder/embedding among its '
      f'{len(arrays)} arrays'
    )
  return state


def _number(arrays, name) -> int | None:
  if name not in arrays or arrays[name].shape not in ((), (1,)):
    return None
  return int(arrays[name].read().reshape(()))


@dataclasses.dataclass(frozen=True)
class _View:
  """One of our arrays, as a part of one of theirs.

  Attributes:
    array: theirs.
    shape: of ours, to which the part is reshaped.
    axis: the axis that the layers are on, or None where there is none.
    layer: which layer this is.
  """

  array: t5x_arrays.Array
  shape: tuple[int, ...]
  axis: int | None = None
  layer: int | None = None


class _Reader:
  """Reads views; an array of several layers once, if they are taken one after the other."""

  def __init__(self, views):
    self._views = views
    self._array = self._content = None

  def read(self, name):
    view = self._views[name]
    if self._array is not view.array:
      self._array = self._content = None  # There is never more than one in memory.
    if view.axis is None:
      return view.array.read().reshape(view.shape)
    if self._content is None:
      self._array, self._content = view.array, view.array.read()
    return self._content.take(view.layer, view.axis).reshape(view.shape)


def _views(name, array) -> dict[str, _View]:
  """A parameter of theirs as ours, by name, with the layers apart."""
  axes = _Axes.of(name, len(array.shape))
  return _apart(name, array, axes.matrix_shape(array.shape), axes.layers)


def _slot_views(slot, name, array, param_shape) -> dict[str, _View]:
  """One array of Adafactor's state as ours, by slot and name, with the layers apart.

  Args:
    slot: theirs: m, v, v_row or v_col.
    name: their name of the parameter.
    array: theirs.
    param_shape: their shape of the parameter.

  Returns:
    Nothing where the array has another shape than T5X's rules give it.
  """
  if slot in ('m', 'v'):
    views = _views(name, array) if array.shape == param_shape else {}
    return {f'{slot}/{our_name}': view for our_name, view in views.items()}
  axes = _Axes.of(name, len(param_shape))
  shape = axes.matrix_shape(param_shape)
  if len(shape) != 2:
    return {}
  row_axis = axes.embed if len(param_shape) > 2 else foreign.v_row_axis(shape)
  axis = row_axis if slot == 'v_row' else 1 - row_axis
  kept = sorted(axes.of_matrix[axis] + ([] if axes.layers is None else [axes.layers]))
  if array.shape != tuple(param_shape[kept_axis] for kept_axis in kept):
    return {}
  our_slot = 'v_row' if axis == foreign.v_row_axis(shape) else 'v_col'
  layer_axis = None if axes.layers is None else kept.index(axes.layers)
  views = _apart(name, array, (shape[axis],), layer_axis)
  return {f'{our_slot}/{our_name}': view for our_name, view in views.items()}


def _apart(name, array, shape, layer_axis) -> dict[str, _View]:
  """Views of the given shape, one a layer, by our names."""
  if layer_axis is None:
    return {name: _View(array, shape)}
  stack, rest = _SCANNED.fullmatch(name).group('stack', 'rest')
  return {
    f'{stack}/layers_{layer}/{rest}': _View(array, shape, layer_axis, layer)
    for layer in range(array.shape[layer_axis])
  }


@dataclasses.dataclass(frozen=True)
class _Axes:
  """What the axes of their parameter are.

  Attributes:
    layers: the axis of the layers, if it has one.
    of_matrix: those that make up the first axis of our matrix, and those that make up the second;
      of a vector the second has none.
    embed: which axis of our matrix is that of the residual stream, in the kernels of layers.
  """

  layers: int | None
  of_matrix: tuple[list[int], list[int]]
  embed: int

  @classmethod
  def of(cls, name, rank):
    layers = _LAYER_AXIS if _SCANNED.fullmatch(name) and rank > _LAYER_AXIS else None
    axes = [axis for axis in range(rank) if axis != layers]
    if name.endswith(_BACK_TO_EMBED):
      return cls(layers, (axes[:-1], axes[-1:]), embed=1)
    return cls(layers, (axes[:1], axes[1:]), embed=0)

  def matrix_shape(self, shape) -> tuple[int, ...]:
    """Our shape of a parameter, or of one layer of it."""
    return tuple(math.prod(shape[axis] for axis in axes) for axes in self.of_matrix if axes)
