"""Where the parameters of a run come from: a checkpoint of ours, or weights of another project."""

import dataclasses
import functools
from typing import Any

import numpy as np
from etils import epath

from t5x_lite import errors
from t5x_lite.checkpoints import foreign, huggingface, layout, mesh_tensorflow, t5x
from t5x_lite.checkpoints import manager as checkpoint_manager
from t5x_lite.models.config import T5Config

# Two models whose parameters have equal shapes compute different things if one of these differs.
_SHAPELESS = (
  'architecture',
  'position_scheme',
  'mlp_activations',
  'relative_attention_max_distance',
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """One checkpoint of ours, with the attributes and methods of `foreign.Weights`."""

  manager: checkpoint_manager.CheckpointManager
  step: int

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
      return T5Config(**self.said('model'))
    except TypeError as error:
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
    return {name: origin.shape for name, origin in self._apart.items()}

  def read(self, name: str) -> np.ndarray:
    """Returns one of these arrays, in the dtype it was saved in.

    The stack that the last one was a layer of is kept, so that each is read once if they are taken
    in the order of `shapes`.
    """
    origin = self._apart[name]
    (saved_name,) = origin.names
    if self._last.get('name') != saved_name:
      self._last.clear()  # Before the next is read: there is never more than one in memory.
      array = self.manager.read_param(self.step, saved_name, self._saved[saved_name].dtype)
      self._last.update(name=saved_name, array=array)
    array = self._last['array']
    return array if origin.index is None else array[origin.index]

  @functools.cached_property
  def _saved(self):
    return self.manager.saved_params(self.step)

  @functools.cached_property
  def _apart(self):
    return layout.apart({name: leaf.shape for name, leaf in self._saved.items()})

  @functools.cached_property
  def _last(self) -> dict[str, Any]:
    return {}

  def restore_params(self, abstract_params):
    """Returns the parameters, see `CheckpointManager.restore_params`."""
    return self.manager.restore_params(self.step, abstract_params)

  def restore_state(self, abstract_state):
    """Returns the whole train state, see `CheckpointManager.restore`."""
    return self.manager.restore(self.step, abstract_state)


def open_origin(path) -> Checkpoint | foreign.Weights:
  """Opens what a path leads to, whatever its format; no parameter is made yet.

  Args:
    path: a run's folder, for its latest checkpoint, or one of its checkpoints/STEP; a folder of
      Hugging Face's; a checkpoint of T5X or Mesh-TensorFlow, or a folder of some, for the newest.

  Raises:
    UserError: there is nothing that can be read.
  """
  place = epath.Path(path).expanduser()
  if huggingface.is_folder(place):
    return huggingface.open_folder(place)
  for each in (mesh_tensorflow, t5x):
    if each.is_checkpoint(place):
      return each.open_checkpoint(place)
  return Checkpoint(*checkpoint_manager.open_checkpoint(place))


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
