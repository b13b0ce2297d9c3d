"""A run that is killed at random moments, and repeats the losses of one that never was."""

import itertools
import random
import time

import byte_runs
import forked_commands
import pytest

KILLS = 20
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
  """Waits for some moment of the set-up, the reading of the checkpoint, or the compilation."""
  before, deadline = newest(run), time.monotonic() + rng.uniform(0, 4)
  while process.is_alive() and time.monotonic() < deadline and newest(run) == before:
    time.sleep(0.005)


def wait_for_step(run, process, rng):
  """Waits for some moment of a step, not far behind the newest checkpoint."""
  goal = newest(run) + rng.randrange(1, 16)
  while process.is_alive() and last_step(run) < min(goal, STEPS - 10):
    time.sleep(0.005)
  time.sleep(rng.uniform(0, 0.05))


def wait_for_save(run, process, rng):
  """Waits for some moment of a save."""
  before = names(run)
  while process.is_alive() and names(run) <= before:
    time.sleep(0.0005)
  time.sleep(rng.uniform(0, 0.1))


@pytest.mark.slow
def test_a_run_killed_twenty_times_repeats_the_losses_of_one_that_never_was(
  command, commands, tmp_path
):
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

  run, rng, printed = tmp_path / 'killed', random.Random(0), tmp_path / 'printed'

  def start():
    return forked_commands.start(
      [*arguments, f'--gin.MODEL_DIR={run}'], commands.environment, printed
    )

  moments = itertools.cycle([wait_for_step, wait_for_start, wait_for_save, wait_for_start])
  for wait, _ in zip(moments, range(KILLS), strict=False):
    process = start()
    wait(run, process, rng)
    assert process.is_alive(), printed.read_text()
    process.kill()
    process.join()

  kept, metrics, started = newest(run), run / 'metrics' / 'train.jsonl', time.time()
  process = start()
  while metrics.stat().st_mtime < started or last_step(run) <= kept:
    assert process.is_alive(), printed.read_text()
    time.sleep(0.005)
  process.terminate()
  process.join()
  assert process.exitcode == 0, printed.read_text()
  stopped_at = max(byte_runs.losses(run))
  assert f'terminated at step {stopped_at}' in printed.read_text()
  assert 'restart' in printed.read_text()

  process = start()
  process.join()
  assert process.exitcode == 0, printed.read_text()
  assert stopped_at == STEPS or f'resuming {run} at step {stopped_at}' in printed.read_text()
  assert byte_runs.losses(run) == expected
  assert all(name.isdecimal() for name in names(run))
