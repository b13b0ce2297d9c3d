"""The pages of the documentation: their code blocks, and how a reader would run them."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The README's own test of these is that they are how tests are run and installed.
ELSEWHERE = ('bash launch/', 'pip install')
# On one device, as a reader's laptop is. What is run so briefly takes longest to compile.
XLA_FLAGS = '--xla_backend_optimization_level=0'


def blocks(page, language):
  """Returns the code blocks of a page in one language."""
  text = (ROOT / page).read_text(encoding='utf-8')
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def scripts(page):
  return [block for block in blocks(page, 'sh') if not block.startswith(ELSEWHERE)]


def run(folder, script, commands=None):
  """Runs a script as a reader would and returns what it printed.

  Args:
    folder: where it runs.
    script: lines of bash.
    commands: folder of commands that come before those of this Python.
  """
  path = [commands, pathlib.Path(sys.executable).parent, os.environ['PATH']]
  path = os.pathsep.join(str(folder) for folder in path if folder)
  environment = os.environ | {'PATH': path, 'XLA_FLAGS': XLA_FLAGS}
  done = subprocess.run(
    ['bash', '-euc', script], cwd=folder, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, f'{script}\n{done.stderr}'
  return done.stdout
