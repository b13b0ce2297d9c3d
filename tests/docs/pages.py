"""The pages of the documentation: their code blocks, and how a reader would run them."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The README's own test of these is that they are how tests are run and installed.
ELSEWHERE = ('bash launch/', 'pip install')


def blocks(page, language):
  """Returns the code blocks of a page in one language."""
  text = (ROOT / page).read_text(encoding='utf-8')
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def run(folder, script):
  """Runs a script as a reader would, this Python's commands first; returns what it printed."""
  path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ['PATH']])
  # On one device, as a reader's laptop is. What is run so briefly takes longest to compile.
  flags = '--xla_backend_optimization_level=0'
  environment = {**os.environ, 'PATH': path, 'XLA_FLAGS': flags}
  done = subprocess.run(
    ['bash', '-euc', script], cwd=folder, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, f'{script}\n{done.stderr}'
  return done.stdout


def scripts(page):
  return [block for block in blocks(page, 'sh') if not block.startswith(ELSEWHERE)]
