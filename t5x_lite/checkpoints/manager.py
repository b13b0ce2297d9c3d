"""Checkpoints of a run: MODEL_DIR/checkpoints/STEP/, written asynchronously and atomically.

What such a folder holds is said in `storage.py`.
"""

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_lite import errors, remote
from t5x_lite.checkpoints import checksums, keeping, layout, reading, storage

_FOLDER = 'checkpoints'
_PARAMS = f'{storage.PARAMS}/'  # Before the name of a parameter.


class CheckpointManager:
  """Saves and restores the checkpoints in one folder.

  Every method is to be called by all processes of a job alike. Readers (evaluation, inference)
  may use a manager on the folder of a run that is still training: only `save`, `write_params` and
  `set_damaged_aside` change anything.

  Attributes:
    directory: the folder that holds the checkpoints, usually MODEL_DIR/checkpoints.
  """

  def __init__(
    self,
    directory,
    *,
    keep_last: int | None = 3,
    keep_every: int | None = None,
    keep_best: int | None = None,
    best_metric: str | None = None,
    best_mode: str = 'max',
  ):
    """Opens a folder, which need not exist before the first save.

    A checkpoint is kept if any of the rules wants it.

    Args:
      directory: the folder of the checkpoints.
      keep_last: how many of the newest to keep; None keeps all.
      keep_every: keeps the steps divisible by this for good.
      keep_best: how many of the best to keep, by `best_metric`.
      best_metric: name of the metric, in the `metrics` given to `save`. A checkpoint without it, or
        where it is not finite, is never among the best.
      best_mode: 'max' or 'min'.
    """
    counts = {'keep_last': keep_last, 'keep_every': keep_every, 'keep_best': keep_best}
    for name, value in counts.items():
      if value is not None and value < 1:
        raise errors.UserError(f'{name}={value} must be at least 1, or None to switch it off')
    if best_mode not in ('max', 'min'):
      raise errors.UserError(f"best_mode={best_mode!r} must be 'max' or 'min'")
    if keep_best is not None and best_metric is None:
      raise errors.UserError(f'keep_best={keep_best} needs best_metric, the metric to go by')
    self.directory = remote.run_path(directory)
    self._keep_last = keep_last
    self._keep_every = keep_every
    self._keep_best = keep_best
    self._best_metric = best_metric
    self._best_mode = best_mode
    self._running: tuple[int, Any] | None = None
    self._failures: list[errors.UserError] = []  # Not told yet.
    self._last_failure: errors.UserError | None = None
    self._cleaned = False
    self._checked: set[tuple[int, str]] = set()  # (step, folder in its checkpoint)

  def steps(self) -> list[int]:
    """The steps of the complete checkpoints, ascending."""
    if not self.directory.is_dir():
      return []
    names = (child.name for child in self.directory.iterdir())
    steps = {int(name) for name in names if name.isdecimal()}
    return sorted(step for step in steps if storage.is_complete(self.directory, step))

  def latest_step(self) -> int | None:
    """The newest complete checkpoint's step, which may be 0; None if there is no checkpoint."""
    return max(self.steps(), default=None)

  def set_damaged_aside(self) -> tuple[int | None, list[str]]:
    """Finds the newest checkpoint that is whole, for a run to go on from.

    Newer ones that are damaged are renamed to STEP.damaged.

    Returns:
      (its step, or None if there are no checkpoints; what there is to say of those set aside).

    Raises:
      UserError: all are damaged.
    """
    said, steps = [], self.steps()
    for step in reversed(steps):
      damage = checksums.damage(self.path(step))
      if damage is None:
        self._checked.update((step, item) for item in storage.ITEMS)
        return step, said
      if step == steps[0]:
        raise self._damaged(step, damage)
      aside = self._aside(step)
      said.append(
        f'checkpoint {self.path(step)} is damaged: {damage}; it is set aside as {aside.name}, and the '
        'run goes on from the one before'
      )
      if jax.process_index() == 0:
        self.path(step).rename(aside)
    return None, said

  def path(self, step: int) -> epath.Path:
    """The folder of a step's checkpoint."""
    return self.directory / str(step)

  def save(
    self,
    step: int,
    state,
    *,
    batches_state: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
  ) -> bool:
    """Starts to write a checkpoint; waits only for the copy of the state to the host.

    The caller may donate or overwrite the state's arrays as soon as this returns. A save that is
    still being written is waited for first, so there is never more than one.

    Args:
      step: the number of steps done.
      state: pytree with `params` (attribute or key) of jax or numpy arrays; see TrainState.
      batches_state: positions in the data by the names of its streams, see `hosts.streams`, each
        from one host; kept as they are.
      metadata: what describes the run (model, vocabulary, gin configuration); JSON-able.
      metrics: the values to choose the best checkpoint by.

    Returns:
      False if the step has a complete checkpoint already: a resumed run repeats the same steps, so
      the one that is there is as good. That it cannot be written is no error here: a run may go on
      without it. `failures` tells, and `wait` raises.
    """
    self._settle()
    if storage.is_complete(self.directory, step):
      return False
    items = {name: _to_save(leaves) for name, leaves in _items(state).items()}
    try:
      self._clean_up()
      response = storage.save_async(
        self.path(step), items, _run_files(metadata, metrics, batches_state)
      )
    except Exception as error:
      self._failed(step, error)
    else:
      self._running = (step, response)
    return True

  def failures(self) -> list[errors.UserError]:
    """What went wrong with saves since this was asked last; does not wait for the one that runs."""
    if self._running is not None and self._running[1].done():
      self._settle()
    failures, self._failures = self._failures, []
    return failures

  def write_params(
    self,
    step: int,
    params: Iterable[tuple[str, np.ndarray]],
    *,
    metadata: Mapping[str, Any] | None = None,
  ):
    """Writes a checkpoint of parameters alone, one after the other, in one process.

    Args:
      step: of which there is no checkpoint yet.
      params: names, with the layers apart, and arrays, each made when its turn comes.
      metadata: see `save`.

    Raises:
      UserError: it could not be written.
    """
    self._clean_up()
    named = ((_PARAMS + name, array) for name, array in params)
    try:
      storage.write_params(self.path(step), named, _run_files(metadata))
    except OSError as error:
      raise self._save_error(step, error) from error

  def wait(self):
    """Waits until the last save is on disk, then deletes the checkpoints no rule wants.

    Raises:
      UserError: the last save failed.
    """
    self._settle()
    if self._last_failure is not None:
      failure, self._last_failure = self._last_failure, None
      self._failures.clear()
      raise failure

  def _settle(self):
    """Waits for the save that is being written, if there is one, and takes note of how it ended."""
    if self._running is None:
      return
    step, response = self._running
    self._running = None
    try:
      response.result()
    except Exception as error:
      self._failed(step, error)
    else:
      self._last_failure = None
      self._delete_unwanted()

  def _failed(self, step, error):
    self._last_failure = self._save_error(step, error)
    self._failures.append(self._last_failure)
    self._cleaned = False  # Orbax may still be writing: what is removed now may come again.
    if jax.process_index() == 0:
      with contextlib.suppress(OSError):
        storage.remove_leftovers(self.directory, step)

  def close(self):
    """Waits for the last save; call it before the program ends."""
    self.wait()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def restore(self, step: int, abstract_state):
    """Reads a whole train state.

    Layers that were saved scanned are taken apart, or the reverse, if the run holds them otherwise.

    Args:
      step: the checkpoint's step.
      abstract_state: the state to fill: a pytree of jax.ShapeDtypeStruct with shardings, of any
        mesh. An array works too; a numpy array is filled as a numpy array. The arrays are read
        in the dtypes given here.

    Returns:
      The state. Nothing is read unless all of it fits.

    Raises:
      UserError: there is no such checkpoint, it is of another model or optimizer, or is damaged.
    """
    items = _items(abstract_state)
    leaves = self._load(step, items)
    return layout.rebuild(abstract_state, leaves)

  def restore_guard(self, step: int, abstract_guard):
    """Reads the guard's state; None if there is none, or one of another size, or `abstract_guard` is None."""
    if abstract_guard is None or not (self.path(step) / storage.GUARD).exists():
      return None
    wanted = layout.flatten({storage.GUARD: abstract_guard})
    saved = storage.saved(self.path(step), storage.GUARD)
    if {name: tuple(x.shape) for name, x in saved.items()} != {
      name: x.shape for name, x in wanted.items()
    }:
      return None
    leaves = self._load(step, {storage.GUARD: wanted})
    return layout.rebuild({storage.GUARD: abstract_guard}, leaves)[storage.GUARD]

  def restore_params(self, step: int, abstract_params):
    """Reads the parameters alone, whatever the optimizer was; else like `restore`."""
    leaves = self._load(step, _items({'params': abstract_params}))
    return layout.rebuild({'params': abstract_params}, leaves)['params']

  def saved_params(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each parameter array as it was saved, scanned layers in one, by its name.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    self._check(step, storage.PARAMS)
    try:
      leaves = storage.saved(self.path(step), storage.PARAMS)
    except Exception as error:
      raise self._damaged(step, reading.first_line(error)) from error
    return {
      name.removeprefix(_PARAMS): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for name, leaf in leaves.items()
    }

  def read_params(self, step: int, dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reads some of `saved_params`, each in the dtype that it is named with.

    Raises:
      UserError: one is damaged.
    """
    self._check(step, storage.PARAMS)
    wanted = {_PARAMS + name: dtype for name, dtype in dtypes.items()}
    try:
      arrays = storage.read(self.path(step), storage.PARAMS, wanted)
    except Exception as error:
      raise self._damaged(step, reading.first_line(error)) from error
    return {name.removeprefix(_PARAMS): array for name, array in arrays.items()}

  def streams(self, step: int) -> list[str]:
    """The names of the streams of data in which a step has a position."""
    self._check(step, storage.RUN)
    prefix = storage.batches_file('')
    files = (self.path(step) / 'run').glob(f'{prefix}*')
    return sorted(path.name.removeprefix(prefix) for path in files)

  def batches_state(self, step: int, streams: Iterable[str]) -> dict[str, bytes]:
    """The positions in some of these streams.

    Raises:
      UserError: one is not there.
    """
    self._check(step, storage.RUN)
    folder = self.path(step) / 'run'
    try:
      return {name: (folder / storage.batches_file(name)).read_bytes() for name in streams}
    except OSError as error:
      raise self._damaged(step, reading.first_line(error)) from error

  def metadata(self, step: int) -> dict[str, Any]:
    """What `save` was given to describe the run."""
    self._check(step, storage.RUN)
    return self._read_json(step, 'metadata.json')

  def metrics(self, step: int) -> dict[str, float | None]:
    """The metrics `save` was given; those that were not finite are None."""
    self._check(step, storage.RUN)
    return self._read_json(step, 'metrics.json')

  def _load(self, step: int, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Reads the arrays of some items, by name, after checking that all of them fit."""
    self._check(step, *items)
    try:
      return reading.load(self.path(step), items)
    except reading.UnreadableError as error:
      raise self._damaged(step, str(error)) from error

  def _check(self, step: int, *items: str):
    """Raises a UserError unless there is the checkpoint, and these folders of it are as written."""
    if not storage.is_complete(self.directory, step):
      steps = self.steps()
      there = f'there are {_listed(steps)}' if steps else 'there is none'
      raise errors.UserError(f'no checkpoint of step {step} in {self.directory}: {there}')
    unchecked = [item for item in items if (step, item) not in self._checked]
    if unchecked and (damage := checksums.damage(self.path(step), unchecked)):
      raise self._damaged(step, damage)
    self._checked.update((step, item) for item in items)

  def _read_json(self, step: int, name: str):
    try:
      return json.loads((self.path(step) / 'run' / name).read_text())
    except (OSError, ValueError) as error:
      raise self._damaged(step, reading.first_line(error)) from error

  def _damaged(self, step: int, what: str) -> errors.UserError:
    others = [other for other in self.steps() if other != step]
    remedy = (
      f'the checkpoints of steps {_listed(others)} remain' if others else 'there is no other one'
    )
    return errors.UserError(
      f'checkpoint {self.path(step)} cannot be read, it is damaged or cut short: {what}; delete or '
      f'restore that folder; {remedy}'
    )

  def _save_error(self, step: int, error: Exception) -> errors.UserError:
    return errors.UserError(
      f'checkpoint {self.path(step)} could not be written, see to the disk space and the rights '
      f'of that folder: {reading.first_line(error)}'
    )

  def _clean_up(self):
    """Makes the folder, and removes what a killed run left of an unfinished save or deletion."""
    if jax.process_index() != 0:
      return
    self.directory.mkdir(parents=True, exist_ok=True)
    if not self._cleaned:  # Before the first save.
      storage.remove_leftovers(self.directory)
      self._cleaned = True

  def _aside(self, step: int) -> epath.Path:
    """A name for a damaged checkpoint that none has yet: a step may be damaged twice."""
    names = (f'{step}.damaged{number}' for number in ('', *range(2, 1000)))
    return next(path for path in map(self.directory.joinpath, names) if not path.exists())

  def _delete_unwanted(self):
    if jax.process_index() != 0:
      return
    steps = self.steps()
    scores = {}
    if self._keep_best is not None:
      scores = {step: self._score(step) for step in steps}
    keep = keeping.steps_to_keep(
      steps, scores, self._keep_last, self._keep_every, self._keep_best, self._best_mode
    )
    for step in sorted(set(steps) - keep):
      try:
        storage.delete(self.path(step))
      except OSError as error:
        logging.warning('could not delete the old checkpoint %s: %s', self.path(step), error)

  def _score(self, step: int) -> float | None:
    try:
      return self._read_json(step, 'metrics.json').get(self._best_metric)
    except errors.UserError as error:
      logging.warning('%s', error)  # An old checkpoint's damage must not stop the run.
      return None


def open_checkpoint(path) -> tuple[CheckpointManager, int]:
  """Finds the checkpoint that a path means, for INITIAL_CHECKPOINT_PATH.

  Args:
    path: a run's folder or its checkpoints/ folder (the latest checkpoint), or one
      checkpoints/STEP folder.

  Returns:
    The manager of its folder, and the step.

  Raises:
    UserError: there is no complete checkpoint.
  """
  path = remote.run_path(path)
  if not path.exists():
    raise errors.UserError(f'no checkpoint at {path}: there is no such folder')
  if not path.is_dir():
    raise errors.UserError(f'no checkpoint at {path}: it is a file, not a folder')
  if path.name.isdecimal() and not (path / _FOLDER).is_dir():
    manager, step = CheckpointManager(path.parent), int(path.name)
    if step in manager.steps():
      return manager, step
    raise errors.UserError(
      f'{path} is no complete checkpoint of t5x-lite; its folder has {_listed(manager.steps())}'
    )
  manager = CheckpointManager(path / _FOLDER if (path / _FOLDER).is_dir() else path)
  step = manager.latest_step()
  if step is None:
    raise errors.UserError(
      f"no complete checkpoint in {manager.directory}: give a run's folder, its {_FOLDER}/ folder, "
      f'or one {_FOLDER}/STEP folder; weights of other projects are known by their files, see '
      'docs/checkpoints.md'
    )
  return manager, step


def _run_files(metadata, metrics=None, batches_state=None) -> storage.RunFiles:
  return storage.RunFiles(
    metadata=json.dumps(dict(metadata or {}), indent=2, sort_keys=True),
    metrics=json.dumps(_finite(metrics or {}), indent=2, sort_keys=True),
    batches_state=batches_state or {},
  )


def _items(state) -> dict[str, dict[str, Any]]:
  """The named leaves of a state, by the folder of the checkpoint they go to."""
  items: dict[str, dict[str, Any]] = {}
  for name, leaf in layout.flatten(state).items():
    item = name.partition('/')[0]
    item = item if item in (storage.PARAMS, storage.GUARD) else storage.TRAINING
    items.setdefault(item, {})[name] = leaf
  return items


def _to_save(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Copies what the caller could overwrite; Orbax itself copies jax arrays off the device."""
  return {
    name: leaf if isinstance(leaf, jax.Array) else np.array(leaf) for name, leaf in leaves.items()
  }


def _finite(metrics: Mapping[str, Any]) -> dict[str, float | None]:
  """NaN and infinity have no place in JSON, nor among the best."""
  values = {name: None if value is None else float(value) for name, value in metrics.items()}
  return {
    name: value if value is not None and math.isfinite(value) else None
    for name, value in values.items()
  }


def _listed(steps: list[int]) -> str:
  return ', '.join(map(str, steps[-8:])) or 'none'
