"""Files of PyTorch's: the numbers that it wrote, and never anything that a pickle would run."""

import os
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from t5x_lite import errors
from t5x_lite.checkpoints import pytorch

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'pytorch'  # See make.py there.
NUMBERS = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = {
  'whole': NUMBERS,
  'transposed': NUMBERS.T,
  'row': NUMBERS[2],
  'half': np.array([[1.5, -2.0]], np.float16),
  'brain': np.array([3.0, 0.25], ml_dtypes.bfloat16),
  'parameter': np.array([7.0], np.float32),
  'scalar': np.array(5.0, np.float32),
  'empty': np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_tensors_are_those_that_pytorch_wrote(kind):
  arrays = pytorch.Arrays(GOLDEN / f'{kind}.bin')
  assert arrays.shapes == {name: array.shape for name, array in EXPECTED.items()}
  for name, array in EXPECTED.items():
    np.testing.assert_array_equal(arrays.read(name), array, strict=True)


class _Runs:
  """Pickled, it is a call that leaves a file behind."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle'])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, kind):
  file, left = tmp_path / 'pytorch_model.bin', tmp_path / 'left'
  code = pickle.dumps({'weight': _Runs(left)}, protocol=2)
  if kind == 'zip':
    with zipfile.ZipFile(file, 'w') as archive:
      archive.writestr('archive/data.pkl', code)
  else:
    header = pickle.dumps(pytorch._LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    file.write_bytes((header if kind == 'legacy' else b'') + code)
  with pytest.raises(
    errors.UserError, match=r'calls \w+\.mkdir, which .* was not run: get .*safet'
  ):
    pytorch.Arrays(file)
  assert not left.exists()


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_a_file_that_is_cut_short_says_so_wherever_it_ends(tmp_path, kind):
  whole = (GOLDEN / f'{kind}.bin').read_bytes()
  for size in range(0, len(whole), 97):
    file = tmp_path / f'{size}.bin'
    file.write_bytes(whole[:size])
    with pytest.raises(errors.UserError, match=rf'{size}.bin is damaged or cut short') as raised:
      arrays = pytorch.Arrays(file)
      for name in arrays.shapes:
        arrays.read(name)
    assert '\n' not in str(raised.value)


def test_other_content_is_refused(tmp_path):
  file = tmp_path / 'pytorch_model.bin'
  file.write_bytes(pickle.dumps({'weight': 1}))
  with pytest.raises(errors.UserError, match='pytorch_model.bin is no file of PyTorch'):
    pytorch.Arrays(file)
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps({'weight': 1}))
  with pytest.raises(errors.UserError, match='holds no dictionary of tensors'):
    pytorch.Arrays(file)
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('archive/data.pkl', pickle.dumps({}))
    archive.writestr('archive/byteorder', 'big')
  with pytest.raises(errors.UserError, match='holds big-endian numbers'):
    pytorch.Arrays(file)
