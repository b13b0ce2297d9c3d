"""Where the parameters of a run come from: a checkpoint of ours, or weights of another project."""

import dataclasses
import functools
from typing import Any

import numpy as np
from etils import epath

from t5x_lite import errors, remote
from t5x_lite.checkpoints import (
  bases,
  foreign,
  huggingface,
  layout,
  mesh_tensorflow,
  storage,
  t5x,
)
from t5x_lite.checkpoints import manager as checkpoint_manager
from t5x_lite.models import selection
from t5x_lite.models.config import T5Config
from t5x_lite.training import state as training_state

# Two models whose parameters have equal shapes compute different things if one of these differs.
_SHAPELESS = (
  'architecture',
  'position_scheme',
  'mlp_activations',
  'relative_attention_max_distance',
)
# Orbax takes tens of milliseconds each time that it is asked, so small arrays are read together.
_GROUP_BYTES = 64 * 1024**2


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """One checkpoint of ours, with the attributes and methods of `foreign.Weights`.

  Attributes:
    manager: of its folder.
    step: its step.
    base: where the parameters come from that the checkpoint does not hold; None if it holds all.
  """

  manager: checkpoint_manager.CheckpointManager
  step: int
  base: 'Checkpoint | foreign.Weights | None' = None

  @property
  def path(self) -> str:
    """Its folder."""
    return str(self.manager.path(self.step))

  @property
  def folder(self) -> epath.Path:
    """The folder of its run."""
    return self.manager.directory.parent

  @functools.cached_property
  def metadata(self) -> dict[str, Any]:
    """What the run said of itself."""
    return self.manager.metadata(self.step)

  def said(self, name: str) -> Any:
    """Returns one entry of the metadata.

    Raises:
      UserError: it is not there.
    """
    try:
      return self.metadata[name]
    except KeyError:
      raise errors.UserError(
        f'checkpoint {self.path} does not say its {name!r}: was it written by another version of '
        't5x-lite?'
      ) from None

  @property
  def model(self) -> T5Config:
    """The model it is of."""
    try:
      return T5Config.from_dict(self.said('model'))
    except (TypeError, KeyError) as error:
      raise errors.UserError(
        f'the model of checkpoint {self.path} has another form ({error}): was it written by '
        'another version of t5x-lite?'
      ) from error

  @property
  def vocabulary(self) -> dict[str, Any]:
    """The fingerprint of its vocabulary."""
    return self.said('vocabulary')

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Of each array, by its name with the layers apart; those of one stack follow each other."""
    own = {name: origin.shape for name, origin in self._apart.items()}
    return own if self.base is None else {**self.base.shapes, **own}

  def read(self, name: str) -> np.ndarray:
    """Returns one of these arrays, in the dtype it was saved in.

    Its neighbours are read with it, so that each is read once, and small ones many at a time, if
    they are taken in the order of `shapes`.
    """
    if self.base is not None and name not in self._apart:
      return self.base.read(name)
    origin = self._apart[name]
    (saved_name,) = origin.names
    if saved_name not in self._held:
      self._held.clear()  # Before others are read: there is never more than one group in memory.
      dtypes = {name: leaf.dtype for name, leaf in self._groups[saved_name].items()}
      self._held.update(self.manager.read_params(self.step, dtypes))
    array = self._held[saved_name]
    return array if origin.index is None else array[origin.index]

  @functools.cached_property
  def _groups(self):
    """With each saved array all that are read at once."""
    groups = storage.in_groups(self._saved.items(), _GROUP_BYTES)
    return {name: group for group in groups for name in group}

  @functools.cached_property
  def _saved(self):
    return self.manager.saved_params(self.step)

  @functools.cached_property
  def _apart(self):
    return layout.apart({name: leaf.shape for name, leaf in self._saved.items()})

  @functools.cached_property
  def _held(self) -> dict[str, np.ndarray]:
    return {}

  def restore_params(self, abstract_params):
    """Returns the parameters, see `CheckpointManager.restore_params`."""
    if self.base is None:
      return self.manager.restore_params(self.step, abstract_params)
    own_names = _names_in(self._apart, abstract_params)
    own, _ = selection.split(abstract_params, own_names)
    # All that the base has, or should have, so that it tells of what is missing.
    _, of_base = selection.split(abstract_params, own_names - names_in(self.base, abstract_params))
    return selection.join(
      self.base.restore_params(of_base), self.manager.restore_params(self.step, own)
    )

  def restore_state(self, abstract_state):
    """Returns the whole train state, see `CheckpointManager.restore`."""
    if self.base is None:
      return self.manager.restore(self.step, abstract_state)
    kept = self.manager.restore(self.step, training_state.without_frozen(abstract_state))
    return kept.replace(params=self.restore_params(abstract_state.params))


def names_in(origin, params) -> set[str]:
  """Returns the names of those parameters that an origin has, whatever its form of layers.

  Args:
    origin: `Checkpoint` or `foreign.Weights`.
    params: nested dict of arrays or of shapes.
  """
  return _names_in(origin.shapes, params)


def _names_in(names_apart, params):
  shapes = {name: tuple(leaf.shape) for name, leaf in layout.flatten(params).items()}
  apart = layout.apart(shapes)
  return {origin.names[0] for name, origin in apart.items() if name in names_apart}


def open_step(manager, step: int, base_path=None) -> Checkpoint:
  """Opens one checkpoint of ours and, where it does not hold all parameters, its base.

  Args:
    manager: of its folder.
    step: its step.
    base_path: where the base is, if not where it was.

  Raises:
    UserError: the base is not there, or is another one; or `base_path` is of no use.
  """
  checkpoint = Checkpoint(manager, step)
  recorded = checkpoint.metadata.get('base')
  if recorded is None:
    if base_path is not None:
      raise errors.UserError(
        f'BASE_CHECKPOINT_PATH={base_path}: {checkpoint.path} holds all parameters and has no base'
      )
    return checkpoint
  try:
    base = open_origin(base_path or recorded['path'])
  except errors.UserError as error:
    raise errors.UserError(
      f'{checkpoint.path} holds the trained parameters alone; those of its base: {error}; if it '
      'has moved, give BASE_CHECKPOINT_PATH (convert: --base)'
    ) from error
  bases.check(base, recorded, checkpoint.path)
  return dataclasses.replace(checkpoint, base=base)


def open_origin(path, base_path=None) -> Checkpoint | foreign.Weights:
  """Opens what a path leads to, whatever its format; no parameter is made yet.

  Args:
    path: a run's folder, for its latest checkpoint, or one of its checkpoints/STEP; a folder of
      Hugging Face's; a checkpoint of T5X or Mesh-TensorFlow, or a folder of some, for the newest.
    base_path: see `open_step`.

  Raises:
    UserError: there is nothing that can be read.
  """
  place = remote.path(path)
  if weights := _open_foreign(place):
    if base_path is not None:
      raise errors.UserError(f'BASE_CHECKPOINT_PATH={base_path}: {place} has no base')
    return weights
  return open_step(*checkpoint_manager.open_checkpoint(place), base_path)


def _open_foreign(place) -> foreign.Weights | None:
  if huggingface.is_folder(place):
    return dataclasses.replace(huggingface.open_folder(remote.local(place)), path=str(place))
  for each in (mesh_tensorflow, t5x):
    if each.is_checkpoint(place):
      return each.open_checkpoint(place)
  return None


def check_model(origin: Checkpoint | foreign.Weights, model: T5Config):
  """Refuses a model that would compute something else with parameters that fit.

  Raises:
    UserError: naming both sides.
  """
  saved = origin.model
  if saved is None:
    return
  for name in _SHAPELESS:
    theirs, ours = getattr(saved, name), getattr(model, name)
    if theirs != ours:
      raise errors.UserError(
        f'{origin.path} is of a model with {name}={theirs!r}, but this run has T5Config.{name}='
        f'{ours!r}: use the configuration of the model it is of'
      )
  # An adapter that is there already goes on as it is; dropout computes nothing.
  theirs, ours = (_without_dropout(config.adapter) for config in (saved, model))
  if theirs not in (None, ours):
    raise errors.UserError(
      f'{origin.path} is of a model with adapter={theirs!r}, but this run has T5Config.adapter='
      f'{ours!r}: use that adapter, or start from the model that `t5x-lite convert` merges'
    )


def _without_dropout(adapter):
  has_dropout = hasattr(adapter, 'dropout_rate')
  return dataclasses.replace(adapter, dropout_rate=0.0) if has_dropout else adapter
