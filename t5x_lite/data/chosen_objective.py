"""The objective of tasks that leave it to a run, such as c4_v020_unsupervised."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from t5x_lite import choices, errors
from t5x_lite.data import objectives

UNSUPERVISED = 'c4_v020_unsupervised'
_OBJECTIVES = (
  'span_corruption',
  'random_spans_drop',
  'iid_denoising',
  'bert_style',
  'mass_style',
  'deshuffling',
  'prefix_lm',
)


def unsupervised(
  dataset: tf.data.Dataset,
  sequence_length: objectives.Lengths,
  output_features: objectives.Features,
) -> tf.data.Dataset:
  """The objective that OBJECTIVE names, with OBJECTIVE_SETTINGS, see `find`; span corruption unless another is chosen.

  EOS is left to `append_eos_after_trim`, so that `full_lm` is not for tasks with it.
  """
  current = choices.current()
  objective = find(current.objective, current.objective_settings)
  return objective(dataset, sequence_length, output_features)


def check(task: seqio.Task | seqio.Mixture) -> None:
  """Refuses an objective that does not exist, or that no task of `task` leaves to choose.

  Raises:
    UserError: naming both sides.
  """
  current, default = choices.current(), choices.Choices()
  find(current.objective, current.objective_settings)
  chosen = (current.objective, dict(current.objective_settings))
  if chosen == (default.objective, dict(default.objective_settings)):
    return
  if not any(unsupervised in each.preprocessors for each in seqio.get_subtasks(task)):
    raise errors.UserError(
      f'OBJECTIVE={current.objective} with OBJECTIVE_SETTINGS={dict(current.objective_settings)} is for tasks that '
      f'leave their objective open, such as {UNSUPERVISED}, and {task.name!r} has its own'
    )


def find(name: str, settings: Mapping[str, Any]) -> Callable:
  """Finds an objective and gives it its settings.

  Args:
    name: of `data.objectives`, such as 'prefix_lm'; or with the path of a module: 'my_tasks.my_objective'.
    settings: keyword arguments, such as {'noise_density': 0.3}.

  Raises:
    UserError: there is no such objective, or it has no such setting.
  """
  module, _, function = name.rpartition('.')
  try:
    owner = importlib.import_module(module) if module else objectives
  except ImportError as error:
    raise errors.UserError(f'OBJECTIVE={name}: {error}') from error
  known = _OBJECTIVES if not module else vars(owner)
  objective = getattr(owner, function, None) if function in known else None
  if not callable(objective):
    near = errors.did_you_mean(function, known) or f'; there are {", ".join(_OBJECTIVES)}'
    raise errors.UserError(f'OBJECTIVE={name}: no such objective{near}')
  parameters = inspect.signature(objective).parameters
  for setting in settings:
    if setting not in parameters:
      has = [
        each for each in parameters if each not in ('dataset', 'sequence_length', 'output_features')
      ]
      raise errors.UserError(
        f'OBJECTIVE_SETTINGS: {name} has no {setting!r}, but {", ".join(has) or "no settings"}'
      )
  return functools.partial(objective, **settings)
