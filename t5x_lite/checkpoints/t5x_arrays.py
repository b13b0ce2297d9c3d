"""The arrays of a T5X checkpoint, whichever way its files keep them.

One flax msgpack file has the tree of the names. An array is in that file itself, or in a zarr
array beside it, which the file refers to by a TensorStore spec (T5X) or a placeholder (early
Orbax). Later Orbax lists the names in `_METADATA`, and may keep all zarr arrays in one OCDBT
database.
"""

import dataclasses
import functools
import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import tensorstore
from etils import epath
from flax import serialization

from t5x_lite import errors

_MSGPACK = 'checkpoint'
_METADATA = '_METADATA'
_OCDBT = 'manifest.ocdbt'
_PLACEHOLDER = 'PLACEHOLDER://'
# How flax writes an array that is too large for one msgpack object.
_IN_CHUNKS = '__msgpack_chunked_array__'
# What flax calls an array and a scalar there.
_EXTENSIONS = (1, 3)
# More than the shape and the dtype, which lead an array, can take.
_HEADER_BYTES = 1024
# What msgpack and flax raise for bytes that they did not write.
_MALFORMED = (ValueError, LookupError, TypeError, RecursionError, msgpack.UnpackException)


@dataclasses.dataclass(frozen=True)
class Array:
  """An array that has not been read yet.

  Attributes:
    shape: its shape.
    read: returns it, in the dtype it is kept in.
  """

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


def find(path: epath.Path) -> epath.Path | None:
  """The file or folder with the tree of names of the one checkpoint at `path`, if there is one."""
  if path.is_file():
    return path if _is_msgpack(path) else None
  for folder in (path / 'state', path):
    if (folder / _METADATA).is_file() or _is_msgpack(folder / _MSGPACK):
      return folder
  return None


def open_arrays(found: epath.Path) -> dict[str, Array]:
  """Reads the names and shapes of the arrays.

  Args:
    found: what `find` returned.

  Returns:
    By name, with `/` between its parts: `optimizer/target/encoder/encoder_norm/scale`.

  Raises:
    UserError: the tree is damaged, or an array that it names is not there.
  """
  file = found / _MSGPACK if found.is_dir() else found
  if _is_msgpack(file):
    leaves = _msgpack_leaves(file)
  else:
    leaves = _listed_leaves(found / _METADATA)
  arrays = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Array)}
  stored = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, _Stored)}
  return arrays | _open_stored(file.parent, stored)


def _is_msgpack(file) -> bool:
  """Whether a file begins with a map of named things, in msgpack."""
  if not file.is_file():
    return False
  unpacker = msgpack.Unpacker(strict_map_key=False)
  with file.open('rb') as stream:
    unpacker.feed(stream.read(_HEADER_BYTES))
  try:
    return unpacker.read_map_header() > 0 and isinstance(unpacker.unpack(), str)
  except (ValueError, msgpack.UnpackException):
    return False


@dataclasses.dataclass(frozen=True)
class _Stored:
  """An array outside of the tree of names, by its own name, which has dots in it."""

  name: str
  driver: str = 'zarr'


@dataclasses.dataclass(frozen=True)
class _Header:
  """What is kept of an array while the tree around it is read."""

  shape: tuple[int, ...]


def _msgpack_leaves(file) -> dict[str, Array | _Stored]:
  with file.open('rb') as stream:
    unpacker = msgpack.Unpacker(stream, ext_hook=_header, strict_map_key=False, max_buffer_size=0)
    try:
      leaves = _flatten(_read_node(unpacker, file))
      if unpacker.tell() != stream.seek(0, io.SEEK_END):
        raise ValueError('there is more in it than one tree')
    except _MALFORMED as error:
      raise _damaged(file, error) from error
  return leaves


def _header(code, data):
  """Called with the content of an array; lets go of all but its shape."""
  if code not in _EXTENSIONS:
    return None
  unpacker = msgpack.Unpacker()
  unpacker.feed(memoryview(data)[:_HEADER_BYTES])
  unpacker.read_array_header()
  return _Header(tuple(unpacker.unpack()))


def _read_node(unpacker, file):
  """Reads the next node of the tree: a dict of nodes, or a leaf."""
  start = unpacker.tell()
  try:
    size = unpacker.read_map_header()
  except msgpack.OutOfData:
    raise
  except ValueError:  # It is no map.
    node = unpacker.unpack()
  else:
    node = {unpacker.unpack(): _read_node(unpacker, file) for _ in range(size)}
    if _IN_CHUNKS in node:
      node = _Header(tuple(node['shape'][str(axis)] for axis in range(len(node['shape']))))
  if isinstance(node, _Header):
    return Array(node.shape, functools.partial(_read_packed, file, start, unpacker.tell()))
  return node


def _read_packed(file, start, end):
  with file.open('rb') as stream:
    stream.seek(start)
    content = stream.read(end - start)
  try:
    return np.asarray(serialization.msgpack_restore(content))
  except _MALFORMED as error:
    raise _damaged(file, error) from error


def _flatten(node, name='') -> dict[str, Array | _Stored]:
  """The leaves that are arrays or stand for one, by name."""
  match node:
    case Array():
      return {name: node}
    case int() | float():
      return {name: Array((), lambda: np.asarray(node))}
    case str() if node.startswith(_PLACEHOLDER):
      return {name: _Stored(node.removeprefix(_PLACEHOLDER))}
    case {'driver': 'zarr', 'kvstore': dict(kvstore)}:
      # The path was moved into `kvstore` by TensorStore 0.1.14. Nothing lies deeper.
      path = kvstore.get('path') or node.get('path', '')
      return {name: _Stored(pathlib.PurePosixPath(path).name)}
    case dict():
      leaves = {}
      for key, child in node.items():
        leaves |= _flatten(child, f'{name}/{key}' if name else str(key))
      return leaves
  return {}


def _listed_leaves(file) -> dict[str, _Stored]:
  try:
    metadata = json.loads(file.read_text())
    driver = 'zarr3' if metadata.get('use_zarr3') else 'zarr'
    leaves = {}
    for entry in metadata['tree_metadata'].values():
      if not entry['value_metadata']['skip_deserialize']:  # Else an empty container.
        keys = [key['key'] for key in entry['key_metadata']]
        leaves['/'.join(keys)] = _Stored('.'.join(keys), driver)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise _damaged(file, error) from error
  return leaves


def _open_stored(folder, stored) -> dict[str, Array]:
  """Opens arrays outside of the tree, many at a time."""
  context = tensorstore.Context()
  in_database = (folder / _OCDBT).is_file()
  opening = {
    name: tensorstore.open(
      {
        'driver': leaf.driver,
        'kvstore': _kvstore(folder, leaf.name, in_database),
        # A lost file of an array would be read as zeros.
        'fill_missing_data_reads': False,
      },
      open=True,
      read=True,
      context=context,
    )
    for name, leaf in stored.items()
  }
  arrays = {}
  for name, future in opening.items():
    try:
      store = future.result()
    except ValueError as error:
      raise _damaged(folder / stored[name].name, error) from error
    read = functools.partial(_read_stored, store, folder / stored[name].name)
    arrays[name] = Array(tuple(store.shape), read)
  return arrays


def _kvstore(folder, name, in_database) -> Any:
  """TensorStore's words for the place of an array."""
  folder = os.fspath(folder)
  local = '://' not in folder
  if in_database:
    base = {'driver': 'file', 'path': f'{folder}/'} if local else f'{folder}/'
    return {'driver': 'ocdbt', 'base': base, 'path': f'{name}/'}
  return {'driver': 'file', 'path': f'{folder}/{name}/'} if local else f'{folder}/{name}/'


def _read_stored(store, path):
  try:
    array = store.read().result()
  except ValueError as error:
    raise _damaged(path, error) from error
  # Before its version 3, T5X wrote the bits of bfloat16 under the name of uint16.
  return array.view(jnp.bfloat16) if array.dtype == np.uint16 else array


def _damaged(path, error) -> errors.UserError:
  # TensorStore's messages go on with the whole specification.
  lines = str(error).partition(' [tensorstore_spec')[0].splitlines()
  reason = lines[0] if lines else type(error).__name__
  return errors.UserError(f'{path} is damaged, cut short or missing: copy it again ({reason})')
