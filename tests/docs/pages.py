"""The pages of the documentation: their code blocks, and how a reader would run them."""

import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The README's own test of these is that they are how tests are run and installed.
ELSEWHERE = ('bash launch/', 'pip install')

# Planning for TPUs copies its process, which may not have used jax before: one of its own, by another environment.
ALONE = 'export XLA_FLAGS="$XLA_FLAGS "'


def blocks(page, language):
  """Returns the code blocks of a page in one language."""
  text = (ROOT / page).read_text(encoding='utf-8')
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def shown(page, language):
  """Returns what a page says that its blocks of one language print, by block; not all have such a text below them."""
  text = (ROOT / page).read_text(encoding='utf-8')
  found = list(re.finditer(r'^```(\w+)\n(.*?)^```$', text, re.MULTILINE | re.DOTALL))
  return {
    code[2]: output[2]
    for code, output in itertools.pairwise(found)
    if (code[1], output[1]) == (language, 'text') and output.start() == code.end() + 2
  }


def form(text):
  """Returns what is alike in the outputs of two models: the lines, and of JSON all but its values."""

  def of(value):
    if isinstance(value, dict):
      return {name: of(each) for name, each in value.items()}
    return [of(each) for each in value] if isinstance(value, list) else type(value)

  return [of(json.loads(line)) if line.startswith('{"') else None for line in text.splitlines()]


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
