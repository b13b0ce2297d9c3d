"""PyTorch's files of weights, pytorch_model.bin, read without PyTorch and without running anything.

Such a file is a pickle, a program that builds objects, beside the raw numbers of its tensors. Of
what a pickle may call, only the few functions are known here that a dictionary of tensors needs,
and these only note where the numbers lie. PyTorch 1.6 and later write a zip archive (`torch.save`),
the ones before wrote pickles and numbers one after the other; many T5 are kept in the older form.
"""

import collections
import dataclasses
import math
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from t5x_lite import errors

_DTYPES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': jnp.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
}
_ZIP_MAGIC = b'PK\x03\x04'
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclasses.dataclass(frozen=True)
class _Storage:
  """The numbers that tensors are views of."""

  key: str
  dtype: np.dtype
  size: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A view of a storage; offset and strides count elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Arrays:
  """The tensors of one file.

  Attributes:
    shapes: of each tensor, by its name.
  """

  def __init__(self, file: pathlib.Path):
    """Reads names and shapes.

    Raises:
      UserError: the file is damaged, or holds more than a dictionary of tensors.
    """
    self._file = file
    try:
      with open(file, 'rb') as stream:
        is_zip = stream.read(4) == _ZIP_MAGIC
      content, self._offsets = (_read_zip if is_zip else _read_legacy)(file)
    except errors.UserError as error:
      raise errors.UserError(f'{file} {error}') from error
    except Exception as error:  # Whatever a pickle that is cut short may end in.
      raise self._damaged(error) from error
    if not isinstance(content, Mapping) or not all(
      isinstance(tensor, _Tensor) for tensor in content.values()
    ):
      raise errors.UserError(f'{file} holds no dictionary of tensors')
    self._tensors: Mapping[str, _Tensor] = content
    self.shapes = {name: tensor.shape for name, tensor in content.items()}

  def read(self, name: str) -> np.ndarray:
    """Returns one tensor.

    Raises:
      UserError: the file is cut short.
    """
    tensor = self._tensors[name]
    if not math.prod(tensor.shape):
      return np.empty(tensor.shape, tensor.storage.dtype)
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    dtype = np.dtype(tensor.storage.dtype)
    start = self._offsets[tensor.storage.key] + tensor.offset * dtype.itemsize
    numbers = np.fromfile(self._file, dtype, count=last + 1, offset=start)
    if numbers.size <= last or tensor.offset + last >= tensor.storage.size:
      raise self._damaged(f'{name} lies beyond its end')
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)

  def _damaged(self, reason) -> errors.UserError:
    text = ' '.join(str(reason).split()) or type(reason).__name__
    return errors.UserError(f'{self._file} is damaged or cut short ({text}): download it again')


def _read_zip(file) -> tuple[Any, dict[str, int]]:
  """Returns the unpickled content and where in the file each storage begins."""
  with zipfile.ZipFile(file) as archive:
    (pickled,) = [name for name in archive.namelist() if name.endswith('/data.pkl')]
    folder = pickled.removesuffix('data.pkl')
    if f'{folder}byteorder' in archive.namelist():
      order = archive.read(f'{folder}byteorder').decode()
      if order != 'little':
        raise errors.UserError(f'holds {order}-endian numbers; only little-endian ones are read')
    with archive.open(pickled) as stream:
      content = _Unpickler(stream).load()
    offsets = {}
    with open(file, 'rb') as stream:
      for entry in archive.infolist():
        if not entry.filename.startswith(f'{folder}data/'):
          continue
        if entry.compress_type != zipfile.ZIP_STORED:
          raise errors.UserError('is compressed, which PyTorch never does')
        # The archive's own list does not say how long the header before the numbers is.
        stream.seek(entry.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), '<u2')
        start = entry.header_offset + 30 + int(lengths.sum())
        offsets[entry.filename.removeprefix(f'{folder}data/')] = start
  return content, offsets


def _read_legacy(file) -> tuple[Any, dict[str, int]]:
  """Like `_read_zip`, for files of PyTorch before 1.6."""
  with open(file, 'rb') as stream:
    if _Unpickler(stream).load() != _LEGACY_MAGIC:
      raise errors.UserError('is no file of PyTorch')
    _protocol, _system = _Unpickler(stream).load(), _Unpickler(stream).load()
    unpickler = _Unpickler(stream)
    content = unpickler.load()
    offsets = {}
    for key in _Unpickler(stream).load():
      (size,) = np.frombuffer(stream.read(8), '<i8')
      offsets[key] = stream.tell()
      stream.seek(int(size) * np.dtype(unpickler.storages[key].dtype).itemsize, 1)
  return content, offsets


class _Unpickler(pickle.Unpickler):
  """Knows what a dictionary of tensors is made of, and nothing else.

  Attributes:
    storages: those that were referred to, by key.
  """

  def __init__(self, stream):
    super().__init__(stream, encoding='utf-8')
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module, name):
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch' and name in _DTYPES:
      return _DTYPES[name]
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return _rebuild_tensor
    if (module, name) == ('torch._utils', '_rebuild_parameter'):
      return _rebuild_parameter
    raise errors.UserError(
      f'calls {module}.{name}, which is no part of weights and was not run: get the weights as '
      'model.safetensors'
    )

  def persistent_load(self, pid):
    _, dtype, key, _location, size, *_ = pid
    return self.storages.setdefault(key, _Storage(key, dtype, size))


def _rebuild_tensor(storage, offset, shape, strides, *_):
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
  return tensor
