"""Python with some packages alone: what an exported folder has to do with."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

from packaging import requirements

_START = """\
import importlib.util, json, sys
sys.path[:0] = {folders!r}
for absent in {absent!r}:
  assert importlib.util.find_spec(absent) is None, absent
arguments = json.loads(sys.argv[1])
"""


def make(folder: pathlib.Path, *packages: str) -> pathlib.Path:
  """Fills a folder with links to installed packages and to what they require."""
  folder.mkdir()
  for name in _with_required(packages):
    distribution = importlib.metadata.distribution(name)
    tops = {file.parts[0] for file in distribution.files if file.parts[0] != '..'}
    for top in tops - {'__pycache__'}:
      link = folder / top
      if not link.exists():  # Some share a folder, such as `google`.
        link.symlink_to(distribution.locate_file(top))
  return folder


def _with_required(packages):
  found, waiting = set(), list(packages)
  while waiting:
    name = waiting.pop()
    if name in found:
      continue
    found.add(name)
    for line in importlib.metadata.requires(name) or ():
      required = requirements.Requirement(line)
      if required.marker is None or required.marker.evaluate({'extra': ''}):
        waiting.append(required.name.lower())
  return found


def run(packages: pathlib.Path, program: str, exported, absent=(), **arguments) -> dict:
  """Runs a program in a new process and returns the dict that it prints last, as JSON.

  Args:
    packages: folder from `make`.
    program: Python; `arguments` is there.
    exported: the folder it is about, in sys.path.
    absent: what must not be importable, besides t5x_lite.
    **arguments: JSON-able.
  """
  folders = [str(exported), str(packages)]
  start = _START.format(folders=folders, absent=['t5x_lite', 'flax', 'seqio', *absent])
  # -S leaves out the site-packages of this Python, where all of these are.
  done = subprocess.run(
    [sys.executable, '-I', '-S', '-c', start + program, json.dumps(arguments)],
    # TensorFlow ends where it does not know a flag of jax's XLA.
    env={name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])
