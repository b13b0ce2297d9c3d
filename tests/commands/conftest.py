"""Runs of the command line on a small task of real reviews."""

import json
import os
import subprocess
import sys

import pytest


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


@pytest.fixture
def command(review_files):
  """Function that starts `t5x-lite` in a process of its own, on one device."""
  del review_files
  environment = os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'}

  def start(*arguments):
    return subprocess.Popen(
      [sys.executable, '-m', 't5x_lite', *map(str, arguments)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )

  return start


@pytest.fixture
def main(review_files, capsys):
  """Function that runs `t5x-lite` in this process, on its 8 devices: (status, stdout, stderr)."""
  del review_files
  from t5x_lite import cli

  def run(*arguments):
    status = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err

  return run
