"""Fixtures that every test may use."""

import dataclasses
import gc
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping

import pytest

from t5x_lite import cli

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Tests compile more than they compute, and often the same.
COMPILE_FAST = '--xla_backend_optimization_level=0'
if sys.version_info < (3, 12):  # Where jax is older, and has this option.
  COMPILE_FAST += ' --xla_cpu_use_fusion_emitters=false'
# Beside other work eight devices on few cores may come together late, which else ends the process.
WAIT = '--xla_cpu_collective_call_terminate_timeout_seconds=600'
os.environ.setdefault(
  'XLA_FLAGS', f'--xla_force_host_platform_device_count=8 {COMPILE_FAST} {WAIT}'
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
cli.set_environment(os.environ)
# They also make many objects, which else are looked through again and again.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope='session')
def shared_data():
  """Folder of real test data and golden outputs; tests that need it skip where it is absent."""
  default = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'
  folder = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', default))
  if not folder.is_dir():
    pytest.skip('set T5X_LITE_TEST_DATA to the folder of golden test data')
  return folder


@pytest.fixture(scope='session')
def review_files(tmp_path_factory):
  """Folder with train.jsonl and validation.jsonl, 300 and 20 real labelled reviews."""
  from t5x_lite.tasks import quickstart

  folder = tmp_path_factory.mktemp('reviews')
  sentences = [row for row in quickstart.reviews() if row[2] == 'rotten_tomatoes']
  half = len(sentences) // 2  # They are sorted by label.
  mixed = [row for pair in zip(sentences[:half], sentences[half:], strict=False) for row in pair]
  for split, rows in (('train', mixed[:300]), ('validation', mixed[300:320])):
    lines = [
      json.dumps({'text': text, 'label': quickstart.LABELS[label]}) for text, label, _ in rows
    ]
    (folder / f'{split}.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
  os.environ['BYTE_TASKS_DIR'] = str(folder)
  return folder


@dataclasses.dataclass(frozen=True)
class Commands:
  """A folder with a `t5x-lite` whose calls share one process, and the environment that is for."""

  folder: pathlib.Path
  environment: Mapping[str, str]


@pytest.fixture(scope='session')
def commands(review_files, tmp_path_factory):
  """`Commands` on one device, as a laptop is."""
  del review_files  # But for the variable that it sets.
  folder = tmp_path_factory.mktemp('commands')
  environment = os.environ | {'XLA_FLAGS': COMPILE_FAST}
  server_file = pathlib.Path(__file__).with_name('command_server.py')
  program = [sys.executable, str(server_file), str(folder / 'socket')]
  server = subprocess.Popen(
    program, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
  )
  assert server.stdout.readline() == b'ready\n'
  own = shlex.join([sys.executable, '-m', 't5x_lite'])
  shared = shlex.join(program)
  (folder / 't5x-lite').write_text(
    f'#!/bin/sh\n[ "$XLA_FLAGS" = "{COMPILE_FAST}" ] || exec {own} "$@"\nexec {shared} "$@"\n'
  )
  (folder / 't5x-lite').chmod(0o755)
  yield Commands(folder, environment)
  server.terminate()
  server.wait()


@pytest.fixture(scope='module')
def random_run(tmp_path_factory):
  """Folder of a run with checkpoints 0 and 20 of random parameters, see random_runs.py."""
  import random_runs

  folder = tmp_path_factory.mktemp('random') / 'run'
  random_runs.write(folder)
  return folder
