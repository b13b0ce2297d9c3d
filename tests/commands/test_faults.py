"""Runs that something happens to: what they say, and that nothing is lost. See docs/reliability.md."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import byte_runs
import pytest

from t5x_lite.monitoring import metrics

PRETRAIN = ('train', *byte_runs.PRETRAIN, '--gin.EVAL_PERIOD=None')


def last_step(run):
  return metrics.last_step(run / 'metrics' / 'train.jsonl') or 0


def saved_steps(run):
  try:
    return sorted(
      int(path.name) for path in (run / 'checkpoints').iterdir() if path.name.isdecimal()
    )
  except FileNotFoundError:
    return []


def wait_until(condition, is_alive=lambda: True, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert is_alive() and time.monotonic() < deadline
    time.sleep(0.005)


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(main, tmp_path):
  whole, run = tmp_path / 'whole', tmp_path / 'run'
  arguments = (*PRETRAIN, '--gin.TRAIN_STEPS=8', '--gin.CHECKPOINT_PERIOD=2')
  status, _, printed = main(*arguments, f'--gin.MODEL_DIR={whole}')
  assert status == 0, printed
  shutil.copytree(whole, run)
  of_run = list((run / 'checkpoints' / '8' / 'run').glob('batches_state*'))
  flip_a_bit(*of_run)
  names = sorted(os.listdir(run / 'checkpoints'))

  # Who only reads is told, and moves nothing.
  name = 'run/batches_state-0-of-1 has been changed'
  for reader in (
    ('train', *byte_runs.FINETUNE, f'--gin.INITIAL_CHECKPOINT_PATH={run}',
     f'--gin.MODEL_DIR={tmp_path / "other"}', '--gin.TRAIN_STEPS=1'),
    ('eval', f'--module={byte_runs.MODULE}', f'--gin.MODEL_DIR={run}'),
  ):  # fmt: skip
    status, _, printed = main(*reader)
    assert (status, printed.count('\n')) == (2, 1)
    assert f'checkpoints/8 cannot be read, it is damaged or cut short: {name}' in printed
  assert sorted(os.listdir(run / 'checkpoints')) == names

  status, _, printed = main(*arguments, f'--gin.MODEL_DIR={run}')
  assert status == 0, printed
  assert f'{name}; it is set aside as 8.damaged' in printed
  assert f'resuming {run} at step 6' in printed
  assert byte_runs.losses(run) == byte_runs.losses(whole)
  assert saved_steps(run) == saved_steps(whole) == [4, 6, 8]
  assert (run / 'checkpoints' / '8.damaged').is_dir()

  for step in (4, 6, 8):
    os.truncate(run / 'checkpoints' / str(step) / 'params' / '_METADATA', 10)
  status, _, printed = main(*arguments, f'--gin.MODEL_DIR={run}')
  assert (status, printed.count('\n')) == (2, 1)
  assert 'params/_METADATA has another length than it was written with' in printed
  assert 'there is no other one' in printed


@pytest.mark.slow
def test_one_run_at_a_time_in_a_folder_that_is_made_again_if_it_vanishes(main, command, tmp_path):
  run, failures, second = tmp_path / 'run', [], []
  arguments = (*PRETRAIN, '--gin.CHECKPOINT_PERIOD=5', f'--gin.MODEL_DIR={run}')

  def disturb():
    try:
      wait_until(lambda: last_step(run) >= 7)
      process = command(*arguments, '--gin.TRAIN_STEPS=9', shared=True)
      second.extend([process.communicate()[1], process.returncode])
      run.rename(tmp_path / 'gone')
      wait_until(lambda: saved_steps(run) and last_step(run) > saved_steps(run)[0])
    except BaseException as failure:
      failures.append(failure)
    finally:
      os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=disturb)
  thread.start()
  status, _, printed = main(*arguments, '--gin.TRAIN_STEPS=1000000')
  thread.join()
  assert not failures and status == 0, printed
  refused, returncode = second
  assert (returncode, refused.count('\n')) == (2, 1)
  assert f'is being trained in by another run (process {os.getpid()} on ' in refused

  assert printed.count(f'MODEL_DIR={run} has vanished') == 1
  assert {'config.gin', 'sharding.txt', 'vocabulary', 'lock'} < set(os.listdir(run))
  stopped_at = last_step(run)
  assert f'terminated at step {stopped_at}' in printed
  assert sorted(byte_runs.losses(run)) == list(range(1, stopped_at + 1))
  assert saved_steps(run)[-1] == stopped_at


@pytest.mark.parametrize('folder', ['/sys/t5x_lite_run', '{tmp}/file/run'])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_compiled(
  main, tmp_path, folder
):
  (tmp_path / 'file').write_text('')
  folder = folder.format(tmp=tmp_path)
  status, _, printed = main(*PRETRAIN, '--gin.TRAIN_STEPS=1', f'--gin.MODEL_DIR={folder}')
  assert (status, printed.count('\n')) == (2, 1)
  assert f'MODEL_DIR={folder} cannot be written to' in printed


def can_mount():
  mount = ['unshare', '-Urm', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt']
  return shutil.which('unshare') and not subprocess.run(mount, capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason='needs user namespaces, to mount a small disk')
def test_a_full_disk_costs_no_step_and_no_older_checkpoint(commands, tmp_path):
  disk = tmp_path / 'disk'
  disk.mkdir()
  script = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'
  process = subprocess.Popen(
    ['unshare', '-Urm', 'sh', '-c', script, 'sh', disk, sys.executable, '-m', 't5x_lite', *PRETRAIN,
     '--gin.TRAIN_STEPS=1000000', '--gin.CHECKPOINT_PERIOD=20', f'--gin.MODEL_DIR={disk / "run"}'],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=commands.environment,
  )  # fmt: skip
  printed = []
  reader = threading.Thread(target=lambda: printed.extend(process.stderr))
  reader.start()

  def is_alive():
    return process.poll() is None

  def said(text):
    return [line for line in printed if text in line]

  try:
    mounted = pathlib.Path(f'/proc/{process.pid}/root{disk}')
    wait_until(lambda: (mounted / 'run').exists(), is_alive)
    # Held open, so that it can be looked at when the process and its mount are gone.
    held = os.open(mounted, os.O_RDONLY)
    run = pathlib.Path(f'/proc/self/fd/{held}/run')
    wait_until(lambda: len(saved_steps(run)) >= 3, is_alive)
    with open(run.parent / 'balloon', 'wb', buffering=0) as balloon:
      with contextlib.suppress(OSError):
        while True:
          balloon.write(bytes(4096))
      kept = saved_steps(run)
      wait_until(lambda: len(said('could not be written')) >= 2, is_alive)
      assert saved_steps(run)[: len(kept)] == kept
      step = last_step(run)
      balloon.truncate(0)
    wait_until(lambda: saved_steps(run)[-1] > step, is_alive)
    process.send_signal(signal.SIGTERM)
    process.wait()
    steps, saved = sorted(byte_runs.losses(run)), saved_steps(run)
    leftovers = [name for name in os.listdir(run / 'checkpoints') if not name.isdecimal()]
    os.close(held)
  finally:
    process.kill()
    reader.join()
  assert process.returncode == 0, printed
  [*_, failure] = said('could not be written')
  assert 'MiB are needed, and 0 MiB are free' in failure
  assert 'the run goes on, and the next save is tried as usual' in failure
  assert len(said('metrics cannot be written to')) <= 1
  assert said(f'terminated at step {saved[-1]}')
  assert steps == list(range(1, saved[-1] + 1)) and not leftovers


def test_a_run_whose_last_checkpoint_cannot_be_written_fails(main, monkeypatch, tmp_path):
  full = shutil.disk_usage(tmp_path)._replace(free=0)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: full)
  status, _, printed = main(
    *PRETRAIN, '--gin.TRAIN_STEPS=3', '--gin.CHECKPOINT_PERIOD=2', f'--gin.MODEL_DIR={tmp_path}'
  )
  assert status == 2 and saved_steps(tmp_path) == []
  failures = [line for line in printed.splitlines() if 'could not be written' in line]
  assert len(failures) == 2 and '/2 could not' in failures[0] and '/3 could not' in failures[1]
  assert failures[0].endswith('the run goes on, and the next save is tried as usual')
  assert failures[1] == printed.splitlines()[-1]
  assert failures[1].startswith('t5x-lite: error: ')
