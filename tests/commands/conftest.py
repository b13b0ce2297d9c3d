"""Runs of the command line on a small task of real reviews."""

import os
import subprocess
import sys

import pytest


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
