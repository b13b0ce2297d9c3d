"""MODEL_DIR: one run at a time, and made again if it vanishes."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from t5x_lite import errors
from t5x_lite.training import run_folder

HOLDER = """
import sys, time
from etils import epath
from t5x_lite.training import run_folder

held = run_folder.RunFolder(epath.Path(sys.argv[1]), is_writer=True)
held.make()
print('held', flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
  with run_folder.RunFolder(tmp_path / 'run', is_writer=True) as folder:
    folder.make()
    folder.write(folder.path, {'config.gin': 'TRAIN_STEPS = 1'}, lambda folder: None)
    yield folder


def test_the_lock_of_a_killed_process_is_gone_with_it(tmp_path):
  with subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
  ) as holder:
    assert holder.stdout.readline() == 'held\n'
    folder = run_folder.RunFolder(tmp_path, is_writer=True)
    with pytest.raises(errors.UserError, match=rf'by another run \(process {holder.pid} on '):
      folder.lock()
    run_folder.RunFolder(tmp_path, is_writer=False).lock()  # Other hosts of one job.
    holder.send_signal(signal.SIGKILL)
  with folder:
    folder.lock()


def test_a_lock_ends_with_the_object_where_a_mistake_ends_the_command(tmp_path):
  for _ in range(2):
    run_folder.RunFolder(tmp_path, is_writer=True).make()


def test_nothing_is_made_by_locking(tmp_path):
  run_folder.RunFolder(tmp_path / 'run', is_writer=True).lock()
  assert not (tmp_path / 'run').exists()


def test_a_folder_that_vanished_is_made_again_with_its_files(folder):
  assert folder.make_again() == []
  shutil.rmtree(folder.path)
  [said] = folder.make_again()
  assert f'MODEL_DIR={folder.path} has vanished' in said
  assert sorted(os.listdir(folder.path)) == ['config.gin', 'lock']
  assert folder.make_again() == []
  with pytest.raises(errors.UserError, match=f'process {os.getpid()} on'):
    run_folder.RunFolder(folder.path, is_writer=True).lock()


def test_the_folder_of_another_run_in_its_place_is_left_alone(folder):
  shutil.rmtree(folder.path)
  with run_folder.RunFolder(folder.path, is_writer=True) as other:
    other.make()
    with pytest.raises(errors.UserError, match='is being trained in by another run'):
      folder.make_again()


def test_what_cannot_be_made_again_now_is_tried_at_the_next_save(folder):
  shutil.rmtree(folder.path)
  folder.path.write_text('in its place')
  vanished, said = folder.make_again()
  assert 'has vanished' in vanished and 'cannot be written to' in said
  folder.path.unlink()
  assert len(folder.make_again()) == 1
  assert (folder.path / 'config.gin').exists()
