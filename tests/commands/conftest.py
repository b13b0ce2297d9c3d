"""Runs of the command line on a small task of real reviews."""

import subprocess
import sys

import pytest


@pytest.fixture
def command(commands):
  """Function that starts `t5x-lite` on one device, in a process of its own unless it is `shared`."""

  def start(*arguments, shared=False):
    program = [commands.folder / 't5x-lite'] if shared else [sys.executable, '-m', 't5x_lite']
    return subprocess.Popen(
      [*program, *map(str, arguments)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=commands.environment,
    )

  return start


@pytest.fixture
def main(review_files, capsys):
  """Function that runs `t5x-lite` in this process, on its 8 devices: (status, stdout, stderr)."""
  del review_files
  from t5x_lite import choices, cli

  def run(*arguments):
    status = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err

  yield run
  choices.begin()  # What a command has chosen is not for the tests after it.
