"""The base of a checkpoint that holds its trained parameters alone.

Its metadata names the base by path and by content: a hash over the parameters, not over the files
they lie in, so that the same parameters in any format and any form of layers are the same base.
"""

import hashlib
import os

import numpy as np

from t5x_lite import errors
from t5x_lite.checkpoints import layout


def content_hash(origin) -> str:
  """Returns the SHA-256 of an origin's parameters as float32, in hexadecimal.

  It is that of the sorted lines 'NAME SHAPE DIGEST', one a parameter, the layers apart. One array
  after the other is in memory.

  Args:
    origin: `origins.Checkpoint` or `foreign.Weights`.
  """
  lines = []
  for name, shape in origin.shapes.items():
    array = np.ascontiguousarray(origin.read(name), '<f4')
    digest = hashlib.sha256(array.data).hexdigest()
    lines.append(f'{name} {"x".join(map(str, shape))} {digest}')
  return hashlib.sha256('\n'.join(sorted(lines)).encode()).hexdigest()


def describe(origin, warm_start, frozen) -> dict[str, str]:
  """Returns what the metadata of a new run says of its base.

  Args:
    origin: what the run starts from, or None.
    warm_start: the `WarmStart`, what it takes from there.
    frozen: nested dict of the parameters that are not trained, or of their shapes.

  Raises:
    UserError: a checkpoint without the frozen parameters could not be made whole again.
  """
  if not frozen:
    raise errors.UserError(
      "CHECKPOINT_PARAMETERS='trainable', but TRAINABLE_PARAMETERS takes in all parameters: "
      "set the one to 'all', or the other to a pattern for fewer"
    )
  if origin is None:
    raise errors.UserError(
      "CHECKPOINT_PARAMETERS='trainable' needs a base to refer to: give INITIAL_CHECKPOINT_PATH, "
      "or set CHECKPOINT_PARAMETERS='all'"
    )
  if warm_start.assignment_map or warm_start.grow_vocabulary:
    raise errors.UserError(
      "CHECKPOINT_PARAMETERS='trainable' refers to the base as it is, but ASSIGNMENT_MAP or "
      "GROW_VOCABULARY changes it: set CHECKPOINT_PARAMETERS='all'"
    )
  shapes = {name: tuple(leaf.shape) for name, leaf in layout.flatten(frozen).items()}
  lost = [
    name for name, wanted in layout.apart(shapes).items() if origin.shapes.get(name) != wanted.shape
  ]
  if lost:
    raise errors.UserError(
      f"CHECKPOINT_PARAMETERS='trainable' would lose {lost[0]} and {len(lost) - 1} more, which "
      f"are neither trained nor in {origin.path}: set it to 'all', or widen TRAINABLE_PARAMETERS"
    )
  return {'path': os.path.abspath(origin.path), 'sha256': content_hash(origin)}


def check_resumed(path: str, saved, metadata):
  """Refuses to go on with other parameters trained or kept than before.

  Args:
    path: of the checkpoint that is resumed.
    saved: its metadata.
    metadata: that of the run.

  Raises:
    UserError: naming both sides.
  """
  for name, default in (('trainable_parameters', '.*'), ('checkpoint_parameters', 'all')):
    before, now = saved.get(name, default), metadata[name]
    if before != now:
      raise errors.UserError(
        f'{path} was trained with {name.upper()}={before!r}, but this run has {now!r}: use that, '
        'or start a new run from it (INITIAL_CHECKPOINT_PATH)'
      )


def check(origin, recorded, whose: str):
  """Refuses a base whose parameters are not those that were recorded.

  Args:
    origin: the base as it is now.
    recorded: from `describe`.
    whose: path of the checkpoint that was trained on it.

  Raises:
    UserError: naming both hashes.
  """
  found = content_hash(origin)
  if found != recorded['sha256']:
    raise errors.UserError(
      f'{whose} was trained on a base with sha256 {recorded["sha256"]}, but {origin.path} has '
      f'sha256 {found}: give that base, which was {recorded["path"]}, as BASE_CHECKPOINT_PATH '
      '(convert: --base)'
    )
