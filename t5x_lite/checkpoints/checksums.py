"""Checksums of a checkpoint's files: what a disk or a copy has changed is found before it is used.

Orbax checks the sums of its indices, but not of the arrays' data: a flipped bit there is a wrong
weight. So each host lists the files that it wrote, with their lengths and CRC-32s, in

  STEP/checksums/HOST-of-HOSTS.json

before the folder gets its name. A checkpoint without these lists is one of an earlier version, or
of which another program wrote the files; nothing is known of them.
"""

import concurrent.futures
import json
import os
import re
import time
import zlib
from collections.abc import Iterable

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

FOLDER = 'checksums'
# Orbax's name for the folder in which one host writes its parts of arrays.
_OF_HOST = re.compile(r'(?:^|/)ocdbt\.process_(\d+)/')
_BLOCK_BYTES = 4 * 1024**2
# Seconds that hosts wait for each other.
_PATIENCE = 600
_WRONG = ('is missing', 'has another length than it was written with', 'has been changed')


def write_list(folder: epath.Path, host_index: int = 0, host_count: int = 1):
  """Lists what this host has written below a folder.

  Args:
    folder: of the checkpoint, with all its files.
    host_index: this host. The first lists what is nobody's in particular, too.
    host_count: number of hosts.
  """
  mine = [name for name in _files(folder) if _host_of(name, host_count) == host_index]
  with _threads() as threads:
    sums = zip(mine, threads.map(lambda name: _sum(folder / name), mine), strict=True)
    entries = {name: {'bytes': size, 'crc32': f'{crc:08x}'} for name, (size, crc) in sums}
  (folder / FOLDER).mkdir(exist_ok=True)
  path = folder / FOLDER / f'{host_index}-of-{host_count}.json'
  new_path = path.with_name(f'.{path.name}')
  new_path.write_text(json.dumps(entries, indent=1, sort_keys=True) + '\n')
  new_path.replace(path)


def wait_for_lists(folder: epath.Path, host_count: int):
  """Waits until every host has written its list; raises TimeoutError if one has not come."""
  wait_for(folder / FOLDER / f'{index}-of-{host_count}.json' for index in range(host_count))


def wait_for(paths: Iterable[epath.Path]):
  """Waits for files or folders that other hosts make; raises TimeoutError if one does not come."""
  deadline = time.monotonic() + _PATIENCE
  for path in paths:
    while not path.exists():
      if time.monotonic() > deadline:
        raise TimeoutError(f'{path} has not been written by another host')
      time.sleep(0.1)


def has_lists(folder: epath.Path) -> bool:
  """Whether there are lists of the checkpoint's files."""
  return (folder / FOLDER).is_dir()


def damage(folder: epath.Path, items: Iterable[str] | None = None) -> str | None:
  """Compares the files with their lists; all hosts of a job do so together, each a part.

  Args:
    folder: of the checkpoint.
    items: the folders in it to look at; None for all that is listed.

  Returns:
    What is wrong with the first file that is not as it was written, the same on all hosts; None if
    all are, or are not listed.
  """
  if not has_lists(folder):
    return None
  try:
    entries = _read_lists(folder)
  except (OSError, ValueError, KeyError, TypeError) as error:
    return f'{FOLDER}/ is unreadable ({error})'
  names = sorted(name for name in entries if items is None or name.partition('/')[0] in items)
  mine = range(jax.process_index(), len(names), jax.process_count())

  def compare(number):
    name = names[number]
    return number, _compare(folder / name, entries[name])

  with _threads() as threads:
    wrong = ((number, kind) for number, kind in threads.map(compare, mine) if kind is not None)
    number, kind = next(wrong, (len(names), 0))
  if jax.process_count() > 1:
    found = multihost_utils.process_allgather(np.array([number, kind], np.int64))
    number, kind = min(map(tuple, found.tolist()))
  return None if number == len(names) else f'{names[number]} {_WRONG[kind]}'


def _files(folder):
  """The names of all files below a folder, but those of the lists."""
  names = []
  for parent, _, files in os.walk(folder):
    names += [str((epath.Path(parent) / file).relative_to(folder)) for file in files]
  return sorted(name for name in names if name.partition('/')[0] != FOLDER)


def _host_of(name, host_count):
  found = _OF_HOST.search(name)
  index = int(found[1]) if found else 0
  return index if index < host_count else 0


def _read_lists(folder):
  """Returns {name: (length, sum)} of all lists.

  Raises:
    ValueError: one is missing, or is no list.
  """
  paths = sorted((folder / FOLDER).glob('*-of-*.json'))
  if not paths or len(paths) != int(paths[0].stem.rpartition('-')[2]):
    raise ValueError(f'{len(paths)} lists')
  entries = {}
  for path in paths:
    for name, entry in json.loads(path.read_text()).items():
      entries[name] = entry['bytes'], int(entry['crc32'], 16)
  return entries


def _compare(path, expected):
  """Returns None if a file is as expected; else the number of what is wrong, in `_WRONG`."""
  try:
    if path.stat().length != expected[0]:
      return 1
    return None if _sum(path) == expected else 2
  except FileNotFoundError:
    return 0


def _sum(path):
  """Returns (length, CRC-32) of a file."""
  size = crc = 0
  with path.open('rb') as file:
    while block := file.read(_BLOCK_BYTES):
      size += len(block)
      crc = zlib.crc32(block, crc)  # Lets other threads run meanwhile.
  return size, crc


def _threads():
  return concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count()))
