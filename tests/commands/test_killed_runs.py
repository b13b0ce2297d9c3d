"""Runs that are killed at random moments, and repeat the losses of one that never was.

T5X_LITE_KILLS=20 kills one run as often as docs/reliability.md tells of.
"""

import os
import random
import signal
import time

import byte_runs
import pytest

KILLS = int(os.environ.get('T5X_LITE_KILLS', 2))
STEPS = 10 * KILLS + 20


def names(run):
  """What is in the folder of checkpoints: complete ones have a number for a name, others more."""
  folder = run / 'checkpoints'
  return {path.name for path in folder.iterdir()} if folder.exists() else set()


def newest(run):
  return max((int(name) for name in names(run) if name.isdecimal()), default=0)


def last_step(run):
  try:
    return max(byte_runs.losses(run), default=0)
  except (FileNotFoundError, ValueError):  # Not yet, or half a line.
    return 0


def wait_for_start(run, process, rng):
  """Waits for some moment of the imports, the reading of the checkpoint, or the compilation."""
  del run, process
  time.sleep(rng.uniform(0, 8))


def wait_for_step(run, process, rng):
  """Waits for some moment of a step, not far behind the newest checkpoint."""
  goal = newest(run) + rng.randrange(1, 16)
  while process.poll() is None and last_step(run) < min(goal, STEPS - 10):
    time.sleep(0.005)
  time.sleep(rng.uniform(0, 0.05))


def wait_for_save(run, process, rng):
  """Waits for some moment of a save."""
  before = names(run)
  while process.poll() is None and names(run) <= before:
    time.sleep(0.0005)
  time.sleep(rng.uniform(0, 0.1))


@pytest.mark.slow
def test_a_killed_run_repeats_the_losses_of_one_that_was_never_killed(command, tmp_path):
  arguments = (
    'train',
    *byte_runs.PRETRAIN,
    f'--gin.TRAIN_STEPS={STEPS}',
    '--gin.CHECKPOINT_PERIOD=10',
    '--gin.EVAL_PERIOD=None',
    '--gin.DROPOUT_RATE=0.1',
  )
  undisturbed = command(*arguments, f'--gin.MODEL_DIR={tmp_path / "undisturbed"}', shared=True)
  _, printed = undisturbed.communicate()
  assert undisturbed.returncode == 0, printed
  expected = byte_runs.losses(tmp_path / 'undisturbed')
  assert sorted(expected) == list(range(1, STEPS + 1))

  run, rng = tmp_path / 'killed', random.Random(0)
  moments = [wait_for_step, wait_for_save, wait_for_start]
  for number in range(KILLS):
    process = command(*arguments, f'--gin.MODEL_DIR={run}')
    # Each of them in turn, and then as it comes.
    wait = moments[number] if number < len(moments) else rng.choice(moments)
    wait(run, process, rng)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()

  kept, metrics, started = newest(run), run / 'metrics' / 'train.jsonl', time.time()
  process = command(*arguments, f'--gin.MODEL_DIR={run}')
  while metrics.stat().st_mtime < started or last_step(run) <= kept:
    assert process.poll() is None, process.communicate()[1]
    time.sleep(0.005)
  process.send_signal(signal.SIGTERM)
  _, printed = process.communicate()
  assert process.returncode == 0, printed
  stopped_at = max(byte_runs.losses(run))
  assert f'terminated at step {stopped_at}' in printed and 'restart' in printed

  process = command(*arguments, f'--gin.MODEL_DIR={run}', shared=True)
  _, printed = process.communicate()
  assert process.returncode == 0, printed
  assert stopped_at == STEPS or f'resuming {run} at step {stopped_at}' in printed
  assert byte_runs.losses(run) == expected
  assert all(name.isdecimal() for name in names(run))
