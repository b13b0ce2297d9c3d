"""What one checkpoint is on disk. This is the only module that knows Orbax.

A checkpoint is a folder that holds up to five others:

  params/     the parameters
  training/   the rest of the train state: step and optimizer state; not where it was converted
  run/        metadata.json, metrics.json and the position in each stream of the data
  guard/      what the guard against harmful updates remembers, where there is one
  checksums/  of all these files, see `checksums.py`

It is written under the name `STEP.saving` and renamed once everything is there, so a folder named by
a bare number is a complete checkpoint, whenever the run was killed. In a bucket, where folders cannot be
renamed, Orbax writes a file `commit_success.txt` last; there are no checksums, since a bucket has its
own.
"""

import concurrent.futures
import dataclasses
import errno
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from t5x_lite import remote
from t5x_lite.checkpoints import checksums, layout

PARAMS = 'params'
TRAINING = 'training'
GUARD = 'guard'
RUN = 'run'
ITEMS = (PARAMS, TRAINING, GUARD, RUN)
# A folder `STEP.something` is a save or a deletion that a killed run did not finish, unless it was
# set aside.
LEFTOVER = re.compile(r'\d+\.(?!damaged).+')
# In a bucket, what a complete checkpoint has and others have not.
_COMMITTED = 'commit_success.txt'
# Of so many bytes of arrays, or of one that is larger, Orbax holds about two copies while it writes.
_GROUP_BYTES = 256 * 1024**2
# All that a checkpoint holds besides its arrays.
_FEW_BYTES = 2 * 1024**2


@dataclasses.dataclass
class RunFiles:
  """The run/ folder of a checkpoint, as an object that Orbax can save along with the arrays."""

  metadata: str
  metrics: str
  batches_state: Mapping[str, bytes]

  async def save(self, directory):
    """Orbax's protocol: returns what it awaits in its background thread."""
    return self._write(directory, jax.process_index() == 0)

  async def _write(self, directory, is_first: bool):
    folder = await directory.await_creation()
    if is_first:
      (folder / 'metadata.json').write_text(self.metadata)
      (folder / 'metrics.json').write_text(self.metrics)
    for stream, state in self.batches_state.items():
      (folder / batches_file(stream)).write_bytes(state)

  async def load(self, directory):
    """Part of Orbax's protocol; the manager reads these files itself."""
    raise NotImplementedError


def batches_file(stream: str) -> str:
  """Name of the file that keeps the position in a stream of the data, such as '0-of-4'."""
  return f'batches_state-{stream}'


def is_complete(directory: epath.Path, step: int) -> bool:
  """Whether the checkpoint of a step was once complete, whatever has become of its files since."""
  path = directory / str(step)
  if checksums.has_lists(path):
    return True
  # Without checksums it is an older one, of which Orbax writes this last.
  try:
    found = ocp.path.step.standard_name_format().find_step(directory, step)
  except (OSError, ValueError):  # No folder, or deleted at this very moment by the run.
    return False
  return found.commit_timestamp_nsecs is not None


def save_async(
  path: epath.Path, items: Mapping[str, Mapping[str, Any]], run_files: RunFiles
) -> concurrent.futures.Future:
  """Starts to write a checkpoint; returns an object whose `result` waits for it.

  Args:
    path: the folder; what is left of one that is incomplete is overwritten.
    items: the arrays of each folder by name. jax arrays are copied off the device before this
      returns, others have to stay as they are until all is written.
    run_files: the rest.
  """
  context = ocp.Context()
  # Made in the background, a folder that cannot be made shows only after minutes of waiting for it.
  context.asynchronous.create_directories_asynchronously = False
  trees = {item: layout.unflatten(leaves) for item, leaves in items.items()}
  _check_space(path, trees)
  saving = path if remote.is_remote(path) else path.with_name(f'{path.name}.saving')
  with context:
    written = ocp.save_checkpointables_async(
      saving, {**trees, RUN: run_files}, overwrite=saving.exists()
    )
  thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
  committed = thread.submit(_commit, written, saving, path)
  thread.shutdown(wait=False)
  return committed


def _check_space(path, trees):
  """Refuses what would fill the disk, which Orbax would tell of in thousands of lines."""
  if remote.is_remote(path) or jax.process_count() > 1:
    return  # Hosts might differ in what they see, and wait for each other.
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) + _FEW_BYTES
  free = shutil.disk_usage(path.parent).free
  if free < needed:
    raise OSError(
      errno.ENOSPC, f'{needed / 2**20:,.0f} MiB are needed, and {free / 2**20:,.0f} MiB are free'
    )


def _commit(written, saving, path):
  """Waits until all is written, adds the checksums, and gives the folder its name."""
  written.result()
  if saving == path:
    return
  host_index, host_count = jax.process_index(), jax.process_count()
  checksums.write_list(saving, host_index, host_count)
  if host_index == 0:
    checksums.wait_for_lists(saving, host_count)
    if path.exists():  # What is no checkpoint.
      path.rmtree()
    saving.rename(path)
  else:
    checksums.wait_for([path / checksums.FOLDER])


def remove_leftovers(directory: epath.Path, step: int | None = None):
  """Removes what is left of unfinished saves and deletions, of one step or of all."""
  # In a bucket there are no empty folders.
  for child in directory.iterdir() if directory.exists() else ():
    if LEFTOVER.fullmatch(child.name) and child.is_dir():
      if step is None or child.name.startswith(f'{step}.'):
        child.rmtree()


def delete(path: epath.Path):
  """Deletes a checkpoint, such that half of one that is left would not count as complete."""
  if remote.is_remote(path):
    # There a folder is renamed by copying all that is in it; Orbax writes this file last.
    (path / _COMMITTED).unlink(missing_ok=True)
  else:
    path = path.rename(path.with_name(f'{path.name}.deleted'))
  path.rmtree()


def write_params(path: epath.Path, params: Iterable[tuple[str, np.ndarray]], run_files: RunFiles):
  """Writes a checkpoint of parameters alone, with few of them in memory at a time.

  Args:
    path: the folder, which must not exist.
    params: arrays with their names; each is made when its turn comes.
    run_files: the rest.
  """
  parts, whole = (path.parent / f'{path.name}.{suffix}' for suffix in ('parts', 'whole'))
  for group in in_groups(params, _GROUP_BYTES):
    ocp.partial.save(parts, layout.unflatten(group))
  ocp.partial.finalize(parts)
  # Orbax writes but one folder in parts, and names it itself: it takes the place of another.
  ocp.save_checkpointables(whole, {PARAMS: {'none': np.zeros(1)}, RUN: run_files})
  (whole / PARAMS).rmtree()
  (parts / 'state').rename(whole / PARAMS)
  parts.rmtree()
  if not remote.is_remote(path):
    checksums.write_list(whole)
  whole.rename(path)


def in_groups(arrays: Iterable[tuple[str, Any]], max_bytes: int) -> Iterator[dict[str, Any]]:
  """Yields arrays, or their shapes and dtypes, so many bytes at a time, or one that is larger."""
  group: dict[str, Any] = {}
  size = 0
  for name, array in arrays:
    nbytes = array.size * array.dtype.itemsize
    if group and size + nbytes > max_bytes:
      yield group
      group, size = {}, 0
    group[name] = array
    size += nbytes
  yield group


def saved(path: epath.Path, item: str) -> dict[str, Any]:
  """Describes the arrays of a folder, by name: `shape` and `dtype` of each.

  Raises:
    ValueError, OSError: it is unreadable.
  """
  tree = ocp.metadata(path, checkpointable_name=item).metadata
  if tree is None:  # Orbax only warns.
    raise ValueError(f'the list of the arrays in {item}/ is unreadable')
  return layout.flatten(tree)


def load(path: epath.Path, items: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """Reads all arrays of some folders.

  Args:
    path: the checkpoint.
    items: for each folder a jax.ShapeDtypeStruct for every array in it.
  """
  trees = {item: layout.unflatten(leaves) for item, leaves in items.items()}
  loaded = ocp.load_checkpointables(path, trees)
  return {item: layout.flatten(loaded[item]) for item in items}


def read(path: epath.Path, item: str, dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Reads some arrays of a folder, those that `dtypes` names, in these dtypes."""
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  wanted = layout.unflatten({name: np.empty(0, dtype) for name, dtype in dtypes.items()})
  with context:
    return layout.flatten(ocp.load_checkpointables(path, {item: wanted})[item])
