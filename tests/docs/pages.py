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


def scripts(page):
  return [block for block in blocks(page, 'sh') if not block.startswith(ELSEWHERE)]


def run(folder, commands, script):
  """Runs a script as a reader would and returns what it printed.

  Args:
    folder: where it runs.
    commands: `Commands`, which come before those of this Python.
    script: lines of bash.
  """
  path = [commands.folder, pathlib.Path(sys.executable).parent, os.environ['PATH']]
  environment = commands.environment | {'PATH': os.pathsep.join(map(str, path))}
  done = subprocess.run(
    ['bash', '-euc', script], cwd=folder, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, f'{script}\n{done.stderr}'
  return done.stdout
