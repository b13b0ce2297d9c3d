"""What is chosen when a command starts, for all the tasks that leave it open.

Tasks are registered when their module is imported, which is before anyone knows the model that they will feed or
where their files lie. They ask here when they are used.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Choices:
  """What tasks ask for.

  Attributes:
    local_data: where files of data sets are, to be read in place of TFDS: a folder each, or DATASET=PATH, see
      `data.local_data`.
    vocabulary: what texts are tokenized with: 'bytes', a SentencePiece file, a run's folder; None for T5's own.
    cache_dir: where tasks are cached, or None for the place in the user's cache folder.
    objective: what `objectives.unsupervised` does: its name.
    objective_settings: the objective's arguments by name.
    mixing_maximum: a task's examples from which on its rate in a mixture does not grow; None for no limit.
    mixing_temperature: what brings the rates in a mixture nearer to each other, from 1 on.
    skipped_records: damaged records that may be left out, see `data.damaged_records`; None where
      nobody was asked.
  """

  local_data: Sequence[str] = ()
  vocabulary: str | None = None
  cache_dir: str | None = None
  objective: str = 'span_corruption'
  objective_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mixing_maximum: int | None = None
  mixing_temperature: float = 1.0
  skipped_records: int | None = None


def _of_environment():
  folders = os.environ.get('T5X_LITE_LOCAL_DATA', '')
  return Choices(
    local_data=tuple(filter(None, folders.split(os.pathsep))),
    cache_dir=os.environ.get('T5X_LITE_TASK_CACHE') or None,
  )


_current = _of_environment()


def current() -> Choices:
  """Returns what holds now."""
  return _current


def choose(**changes):
  """Replaces some of the choices, by the names of `Choices`."""
  global _current
  _current = dataclasses.replace(_current, **changes)


def begin(**changes):
  """Starts from the defaults, with $T5X_LITE_LOCAL_DATA and $T5X_LITE_TASK_CACHE, and replaces some."""
  global _current
  _current = dataclasses.replace(_of_environment(), **changes)
