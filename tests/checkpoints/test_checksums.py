"""What a disk or a copy has changed in a checkpoint is found, whichever bit it is."""

import os
import pathlib
import random
import shutil

import numpy as np
import pytest
from etils import epath

from t5x_lite import errors
from t5x_lite.checkpoints import checksums
from t5x_lite.checkpoints import manager as checkpoints

RANDOM = np.random.default_rng(0)
# One array is large enough to lie in a file of its own, whose data Orbax does not check.
STATE = {
  'params': {'large': RANDOM.normal(size=(300, 500)).astype('f4'), 'small': np.ones((2, 3), 'f4')},
  'moments': {'large': RANDOM.normal(size=(200, 500)).astype('f4')},
}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Folder of the checkpoints 1 and 2."""
  manager = checkpoints.CheckpointManager(tmp_path_factory.mktemp('run') / 'checkpoints')
  for step in (1, 2):
    manager.save(
      step, STATE, batches_state={'0-of-1': RANDOM.bytes(3000)}, metadata={'gin': 'x = 1'}
    )
  manager.wait()
  return manager.directory


@pytest.fixture
def directory(saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'checkpoints')
  return epath.Path(tmp_path / 'checkpoints')


def listed_files(folder):
  paths = pathlib.Path(folder).rglob('*')
  return [path for path in paths if path.is_file() and path.parent.name != 'checksums']


def test_every_change_of_every_file_is_named(directory):
  folder, rng = directory / '2', random.Random(0)
  files = listed_files(folder)
  assert len(files) > 10 and checksums.damage(folder) is None
  for path in files:
    content, name = path.read_bytes(), str(path.relative_to(folder))
    path.unlink()
    assert checksums.damage(folder) == f'{name} is missing'
    path.write_bytes(content + b'\0')
    assert checksums.damage(folder) == f'{name} has another length than it was written with'
    for _ in range(3 if content else 0):
      flipped = bytearray(content)
      flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
      path.write_bytes(flipped)
      assert checksums.damage(folder) == f'{name} has been changed'
      path.write_bytes(content[: rng.randrange(len(content))])
      assert checksums.damage(folder) == f'{name} has another length than it was written with'
    path.write_bytes(content)
  assert checksums.damage(folder) is None


@pytest.mark.parametrize('damage', ['cut', 'removed', 'two of one'])
def test_damaged_lists_are_damage(directory, damage):
  [path] = (directory / '2' / 'checksums').iterdir()
  if damage == 'cut':
    os.truncate(path, 100)
  elif damage == 'removed':
    path.unlink()
  else:
    shutil.copy(path, path.with_name('1-of-2.json'))
  assert checksums.damage(directory / '2').startswith('checksums/ is unreadable')
  assert checkpoints.CheckpointManager(directory).set_damaged_aside()[0] == 1


def flip(folder, item):
  """Flips a bit in the middle of the largest file."""
  path = max(listed_files(folder / item), key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  return f'{item}/{path.relative_to(folder / item)}'


def test_who_reads_is_told_and_changes_nothing(directory):
  name = flip(directory / '2', 'params')
  manager, step = checkpoints.open_checkpoint(directory)
  assert step == 2 and manager.metadata(2) == {'gin': 'x = 1'}
  for read in (
    lambda: manager.restore(2, STATE),
    lambda: manager.restore_params(2, STATE['params']),
    lambda: manager.read_params(2, {'small': np.float32}),
  ):
    with pytest.raises(errors.UserError) as caught:
      read()
    assert f'2 cannot be read, it is damaged or cut short: {name} has been changed' in str(
      caught.value
    )
    assert 'the checkpoints of steps 1 remain' in str(caught.value)
  assert sorted(os.listdir(directory)) == ['1', '2']


def test_who_reads_the_parameters_alone_is_not_told_of_the_optimizer(directory):
  name = flip(directory / '2', 'training')
  manager = checkpoints.CheckpointManager(directory)
  manager.restore_params(2, STATE['params'])
  with pytest.raises(errors.UserError, match=name):
    manager.restore(2, STATE)


def test_a_run_sets_damaged_checkpoints_aside_and_goes_on_from_the_one_before(directory):
  manager = checkpoints.CheckpointManager(directory)
  for aside in ('2.damaged', '2.damaged2'):
    name = flip(directory / '2', 'training')
    step, [said] = manager.set_damaged_aside()
    assert step == 1 and f'{name} has been changed; it is set aside as {aside}' in said
    manager.save(2, STATE)
    manager.wait()
  # A new manager cleans up, but not this.
  manager = checkpoints.CheckpointManager(directory)
  assert manager.set_damaged_aside() == (2, [])
  manager.save(3, STATE)
  manager.wait()
  assert sorted(os.listdir(directory)) == ['1', '2', '2.damaged', '2.damaged2', '3']


def test_without_a_whole_one_nothing_is_set_aside_that_was_the_last(directory):
  flip(directory / '1', 'run')
  flip(directory / '2', 'run')
  with pytest.raises(errors.UserError, match='1 cannot be read, it is damaged.*no other one'):
    checkpoints.CheckpointManager(directory).set_damaged_aside()
  assert sorted(os.listdir(directory)) == ['1', '2.damaged']
  assert checkpoints.CheckpointManager(directory.parent).set_damaged_aside() == (None, [])


def test_a_checkpoint_of_before_there_were_lists_is_read(directory):
  shutil.rmtree(directory / '2' / 'checksums')
  manager = checkpoints.CheckpointManager(directory)
  assert manager.set_damaged_aside() == (2, [])
  np.testing.assert_array_equal(
    manager.restore(2, STATE)['params']['large'], STATE['params']['large']
  )


@pytest.mark.parametrize('damage', ['cut', 'removed', 'array metadata', 'run metadata'])
def test_what_cannot_be_read_of_such_a_checkpoint_is_told_as_far_as_it_shows(directory, damage):
  shutil.rmtree(directory / '2' / 'checksums')
  manager = checkpoints.CheckpointManager(directory)
  largest = max(listed_files(directory / '2' / 'params'), key=lambda path: path.stat().st_size)
  if damage == 'cut':
    os.truncate(largest, 1000)
  elif damage == 'removed':
    largest.unlink()
  elif damage == 'array metadata':
    (directory / '2' / 'params' / '_METADATA').write_text('{"tree')
  else:
    (directory / '2' / 'run' / 'metadata.json').write_text('{"gin')
  with pytest.raises(errors.UserError) as caught:
    manager.restore(2, STATE) if damage != 'run metadata' else manager.metadata(2)
  assert f'checkpoint {directory}/2 cannot be read' in str(caught.value)
  assert 'the checkpoints of steps 1 remain' in str(caught.value)
  assert '\n' not in str(caught.value)


def test_each_host_lists_what_it_wrote(directory):
  folder = directory / '2'
  shutil.rmtree(folder / 'checksums')
  (folder / 'params' / 'ocdbt.process_1').mkdir()
  (folder / 'params' / 'ocdbt.process_1' / 'x').write_text('of the second host')
  checksums.write_list(folder, 1, 2)
  assert checksums.damage(folder).startswith('checksums/ is unreadable')  # One is still to come.
  checksums.write_list(folder, 0, 2)
  checksums.wait_for_lists(folder, 2)
  assert checksums.damage(folder) is None
  second = (folder / 'checksums' / '1-of-2.json').read_text()
  assert second.count('crc32') == 1 and 'params/ocdbt.process_1/x' in second


def test_a_host_that_writes_no_list_is_not_waited_for_for_ever(directory, monkeypatch):
  monkeypatch.setattr(checksums, '_PATIENCE', 0.2)
  with pytest.raises(TimeoutError, match='0-of-2.json has not been written by another host'):
    checksums.wait_for_lists(directory / '2', 2)
