"""Names of a state's arrays, and how the arrays of a checkpoint become those of a run.

A state is a pytree whose leaves have names: `params/encoder/layers_0/mlp/wi/kernel`,
`opt_state/0/v_row/...`. A run holds a stack's layers either apart, under `layers_N`, or scanned,
under `layers` with a leading layer axis; the functions here plan how one form is made from the
other, for parameters and optimizer state alike, by name and shape only. `manager.py` does the IO.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

_ONE_LAYER = re.compile(r'(?P<stack>.*)/layers_(?P<index>\d+)/(?P<rest>.*)')
_ALL_LAYERS = re.compile(r'(?P<stack>.*)/layers/(?P<rest>.*)')
# What optax's Adafactor keeps where a parameter has no use for a slot; it never gains a layer axis.
_PLACEHOLDER = (1,)


def flatten(tree) -> dict[str, Any]:
  """Maps the name of each leaf to the leaf; containers without leaves vanish.

  Dictionary keys, attribute names and positions in tuples become the parts of a name, joined by
  `/`, so that a TrainState, an optax state and a plain nested dictionary are named alike.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Builds the nested dictionary whose leaves have these names."""
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *folders, last = name.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = leaf
  return tree


def rebuild(tree, leaves: Mapping[str, Any]):
  """Returns `tree` with each leaf replaced by the one of the same name."""
  return jax.tree.unflatten(jax.tree.structure(tree), [leaves[name] for name in flatten(tree)])


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where an array of the run comes from in the checkpoint.

  Attributes:
    names: the saved arrays it is made of; more than one are stacked on a new leading axis.
    shape: its shape in the form the run wants.
    stacked: whether the saved arrays are to be stacked.
    index: which row of the one saved array it is, if it is one of a stack's layers.
  """

  names: tuple[str, ...]
  shape: tuple[int, ...]
  stacked: bool = False
  index: int | None = None


def plan(
  saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Origin]:
  """Views a checkpoint in the form (layers scanned or apart) that the run wants, stack by stack.

  Args:
    saved: shape of each array in the checkpoint, by name.
    wanted: shape of each array in the run, by name.

  Returns:
    The origin of every array the checkpoint has to offer, by the name it has in the run. These may
    still differ from `wanted` in names and shapes: see `differences`.
  """
  wants_apart = {match['stack'] for match in map(_ONE_LAYER.fullmatch, wanted) if match}
  wants_scanned = {match['stack'] for match in map(_ALL_LAYERS.fullmatch, wanted) if match}
  # By name of the scanned array: its layers, by their number.
  to_stack: dict[str, dict[int, str]] = {}
  origins = {}
  for name, shape in saved.items():
    if (match := _ALL_LAYERS.fullmatch(name)) and match['stack'] in wants_apart:
      origins |= _take_apart(name, shape, match['stack'], match['rest'], wanted)
    elif (match := _ONE_LAYER.fullmatch(name)) and match['stack'] in wants_scanned:
      scanned_name = f'{match["stack"]}/layers/{match["rest"]}'
      to_stack.setdefault(scanned_name, {})[int(match['index'])] = name
    else:
      origins[name] = Origin((name,), shape)
  for scanned_name, layers in to_stack.items():
    names = tuple(layers[index] for index in sorted(layers))
    shapes = {saved[name] for name in names}
    if sorted(layers) != list(range(len(layers))) or len(shapes) > 1:
      origins |= {name: Origin((name,), saved[name]) for name in names}  # No stack: unexpected.
    elif shapes == {_PLACEHOLDER} and wanted.get(scanned_name) == _PLACEHOLDER:
      origins[scanned_name] = Origin(names, _PLACEHOLDER)
    else:
      origins[scanned_name] = Origin(names, (len(names), *shapes.pop()), stacked=True)
  return origins


def apart(saved: Mapping[str, tuple[int, ...]]) -> dict[str, Origin]:
  """Views the parameters of a checkpoint with the layers apart, those of one array in succession."""
  origins = {}
  for name, shape in saved.items():
    if match := _ALL_LAYERS.fullmatch(name):
      origins |= _take_apart(name, shape, match['stack'], match['rest'], {})
    else:
      origins[name] = Origin((name,), shape)
  return origins


def _take_apart(name, shape, stack, rest, wanted) -> dict[str, Origin]:
  """The origins of single layers in one scanned array."""
  wanted_layers = [
    other
    for other in wanted
    if (match := _ONE_LAYER.fullmatch(other)) and (match['stack'], match['rest']) == (stack, rest)
  ]
  if shape == _PLACEHOLDER and any(wanted[layer] == _PLACEHOLDER for layer in wanted_layers):
    return {layer: Origin((name,), _PLACEHOLDER) for layer in wanted_layers}
  if not shape:
    return {name: Origin((name,), shape)}
  return {
    f'{stack}/layers_{index}/{rest}': Origin((name,), shape[1:], index=index)
    for index in range(shape[0])
  }


def differences(origins: Mapping[str, Origin], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
  """Says in words which arrays a run misses in a checkpoint, has no use for, or has otherwise."""
  missing = [name for name in wanted if name not in origins]
  unexpected = [name for name in origins if name not in wanted]
  reshaped = [
    f'{_short(name)} {list(origins[name].shape)} against {list(shape)}'
    for name, shape in wanted.items()
    if name in origins and origins[name].shape != shape
  ]
  sentences = []
  if missing:
    sentences.append(f'it lacks {_few(map(_short, missing))}')
  if unexpected:
    sentences.append(f'this run has no {_few(map(_short, unexpected))}')
  if reshaped:
    sentences.append(f'shapes in the checkpoint against this run: {_few(reshaped)}')
  return sentences


def _short(name: str) -> str:
  """Parameters go by the name they have in the model."""
  return name.removeprefix('params/')


def _few(names: Iterable[str], limit: int = 4) -> str:
  names = list(names)
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(names[:limit]) + more


def abstract_source(origin: Origin, wanted: jax.ShapeDtypeStruct, saved_shape: tuple[int, ...]):
  """How to read a saved array so that the array of the run is made from it without moving shards.

  Args:
    origin: the plan for one array of the run.
    wanted: that array, with its sharding.
    saved_shape: shape of the array in the checkpoint.

  Returns:
    A ShapeDtypeStruct of `saved_shape`, in the dtype and (less or plus the layer axis) the sharding
    that the run wants.
  """
  sharding = wanted.sharding
  if isinstance(sharding, jax.sharding.NamedSharding):
    spec = sharding.spec
    if origin.stacked:
      spec = jax.sharding.PartitionSpec(*spec[1:])
    elif origin.index is not None:
      spec = jax.sharding.PartitionSpec(None, *spec)
    sharding = jax.sharding.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
  return jax.ShapeDtypeStruct(saved_shape, wanted.dtype, sharding=sharding)


def abstract_leaf(leaf) -> jax.ShapeDtypeStruct:
  """Shape, dtype and sharding to read an array with: on one device, unless `leaf` says where."""
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def assemble(
  origins: Mapping[str, Origin],
  wanted: Mapping[str, jax.ShapeDtypeStruct],
  loaded: dict[str, jax.Array],
) -> dict[str, jax.Array]:
  """Makes every array of the run from the loaded ones.

  Each loaded array is let go of (taken out of `loaded`) after its last use, so that no more than
  one stack exists in both forms at a time.
  """
  uses = collections.Counter(name for origin in origins.values() for name in origin.names)
  made = {}
  for name, origin in origins.items():
    made[name] = _make(origin, wanted[name].sharding, loaded)
    for source in origin.names:
      uses[source] -= 1
      if not uses[source]:
        del loaded[source]
  return made


def _make(origin, sharding, loaded):
  if origin.stacked:
    return jax.jit(_stack, out_shardings=sharding)([loaded[name] for name in origin.names])
  array = loaded[origin.names[0]]
  if origin.index is not None:
    return jax.jit(_layer, out_shardings=sharding)(array, origin.index)
  return array


def _stack(layers):
  return jnp.stack(layers)


def _layer(stack, index):
  return jax.lax.dynamic_index_in_dim(stack, index, keepdims=False)
