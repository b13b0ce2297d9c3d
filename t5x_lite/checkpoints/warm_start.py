"""What a new run takes from the checkpoint it starts from, and what it makes new."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from t5x_lite import errors
from t5x_lite.checkpoints import foreign, layout, origins
from t5x_lite.models import adapters, selection
from t5x_lite.training import state as training_state

# The axis that the vocabulary has in a parameter.
_VOCABULARY_AXES = {'token_embedder/embedding': 0, 'decoder/logits_dense/kernel': 1}
_LAYER = re.compile(r'layers_\d+')


@dataclasses.dataclass(frozen=True)
class WarmStart:
  """How a new run starts from a checkpoint of any format.

  Attributes:
    path: of the checkpoint, see `origins.open_origin`; None for new parameters.
    assignment_map: pairs (pattern, source). A parameter whose name, with the layers apart, matches
      the regular expression `pattern` as a whole is read from the checkpoint's parameter `source`,
      which may refer to groups of the pattern; or made new, if `source` is None. The first pattern
      that matches counts. A parameter of the checkpoint that the run has no use for is an error,
      unless a pattern matches its name.
    grow_vocabulary: the run may have more ids than the checkpoint, whose rows keep their ids. The
      vocabularies are not compared.
    restore_optimizer_state: go on with the checkpoint's optimizer state and at its step.
  """

  path: str | None = None
  assignment_map: Sequence[Sequence[str | None]] = ()
  grow_vocabulary: bool = False
  restore_optimizer_state: bool = False

  def __post_init__(self):
    changes = {
      'ASSIGNMENT_MAP': self.assignment_map,
      'GROW_VOCABULARY': self.grow_vocabulary,
      'RESTORE_OPTIMIZER_STATE': self.restore_optimizer_state,
    }
    given = [f'{name}={value}' for name, value in changes.items() if value]
    if given and self.path is None:
      raise errors.UserError(f'{given[0]} needs an INITIAL_CHECKPOINT_PATH to start from')
    if self.restore_optimizer_state and len(given) > 1:
      raise errors.UserError(
        f'{given[0]} and RESTORE_OPTIMIZER_STATE=True exclude each other: the state is of the '
        'parameters as they were'
      )
    for rule in self.assignment_map:
      _check_rule(rule, self.assignment_map)


def _check_rule(rule, rules):
  is_pair = isinstance(rule, (tuple, list)) and len(rule) == 2
  if not is_pair or not isinstance(rule[0], str) or not isinstance(rule[1], (str, type(None))):
    raise errors.UserError(
      f'ASSIGNMENT_MAP={rules!r} must be pairs of a pattern and a name or None, with a comma after '
      "a single one: (('decoder/logits_dense/.*', None),)"
    )
  try:
    re.compile(rule[0])
  except re.error as error:
    raise errors.UserError(
      f'ASSIGNMENT_MAP has {rule[0]!r}, which is no regular expression: {error}'
    ) from error


def step_to_go_on_from(origin, train_steps: int) -> int:
  """Returns the step of a checkpoint whose optimizer state is restored.

  Raises:
    UserError: it does not know its step, or no step is left to do.
  """
  if origin.step is None:
    raise errors.UserError(
      f'RESTORE_OPTIMIZER_STATE=True: {origin.path} holds no state of an optimizer'
    )
  if origin.step >= train_steps:
    raise errors.UserError(
      f'RESTORE_OPTIMIZER_STATE=True goes on from step {origin.step} of {origin.path}, so that '
      f'TRAIN_STEPS={train_steps} leaves nothing to do: raise it, or restore the parameters alone'
    )
  return origin.step


def begin(config: WarmStart, origin, module, optimizer, abstract, seed: int):
  """Makes the state that a new run begins with.

  Args:
    config: what to take from the checkpoint.
    origin: an `origins.Checkpoint` or `foreign.Weights`, or None for new parameters.
    module: Flax module of the model.
    optimizer: optax optimizer.
    abstract: from `training.state.abstract_state`.
    seed: of what is new.

  Returns:
    (TrainState, lines that say what came from where).

  Raises:
    UserError: something does not fit, or a rule of `assignment_map` has no effect.
  """
  if origin is not None and config.restore_optimizer_state:
    said = f'going on from step {origin.step} of {origin.path} with its optimizer state'
    return origin.restore_state(abstract), [said]
  params, new, said = {}, abstract.params, []
  if origin is not None:
    there, new = adapters.split_new(abstract.params, origins.names_in(origin, abstract.params))

    def create(names):
      return training_state.create_some_params(module, there, names, seed)

    params, said = restore_params(config, origin, there, create)
    said = [f'starting from the parameters of {origin.path}', *said]
  if new:
    params = selection.join(params, training_state.create_params(module, new, seed))
    params = adapters.initialize(module.config.adapter, params, seed)
  return training_state.create(optimizer, params, abstract), said


def restore_params(
  config: WarmStart, origin, abstract_params, create: Callable[[Iterable[str]], Mapping]
):
  """Reads the parameters of a new run.

  Args:
    config: what to take.
    origin: an `origins.Checkpoint` or `foreign.Weights`.
    abstract_params: pytree of jax.ShapeDtypeStruct with shardings, of either form of layers.
    create: function of names in `abstract_params`; returns the new parameters by their names, as
      numpy arrays. Called only if something is to be made new.

  Returns:
    (parameters, lines that say what is new and what came from elsewhere).

  Raises:
    UserError: something does not fit, or a rule of `assignment_map` has no effect.
  """
  if not config.assignment_map and not config.grow_vocabulary:
    return origin.restore_params(abstract_params), []
  wanted = {n: tuple(leaf.shape) for n, leaf in layout.flatten(abstract_params).items()}
  # Rules are about single layers, in whichever form the run holds them.
  pieces = layout.apart(wanted)
  shapes = {name: piece.shape for name, piece in pieces.items()}
  sources, left = _assign(config.assignment_map, shapes, origin)
  new = [name for name, source in sources.items() if source is None]
  grown = [name for name in _VOCABULARY_AXES if config.grow_vocabulary and sources.get(name)]
  grown = [name for name in grown if _grows(name, origin.shapes[sources[name]], shapes[name])]
  made = create({pieces[name].names[0] for name in [*new, *grown]}) if new or grown else {}

  def read(name):
    if name in new or name in grown:
      fresh = made[pieces[name].names[0]]
      fresh = fresh if pieces[name].index is None else fresh[pieces[name].index]
    if name in new:
      return fresh
    array = origin.read(sources.get(name, name))
    if name in grown:
      axis = _VOCABULARY_AXES[name]
      _, added = np.split(fresh, [array.shape[axis]], axis)
      array = np.concatenate([array, added.astype(array.dtype)], axis)
    return array

  # The checkpoint as the run sees it; what neither side accounts for is left to its complaint.
  accounted = {*sources.values(), *left}
  seen = {name: shape for name, shape in origin.shapes.items() if name not in accounted}
  for name, source in sources.items():
    seen[name] = shapes[name] if name in new or name in grown else origin.shapes[source]
  view = foreign.Weights(origin.path, origin.model, origin.vocabulary, seen, read)
  params = view.restore_params(abstract_params)
  lines = [f'new: {text}' for text in _briefly(new)]
  for name in grown:
    axis = _VOCABULARY_AXES[name]
    kept = origin.shapes[sources[name]][axis]
    lines.append(f'{name}: {kept} ids of the checkpoint and {shapes[name][axis] - kept} new ones')
  moved = [
    f'{name} from {source}' for name, source in sources.items() if source not in (None, name)
  ]
  lines += [f'taken: {text}' for text in _briefly(moved)]
  lines += [f'not taken from the checkpoint: {text}' for text in _briefly(left)]
  return params, lines


def _assign(rules, shapes, origin) -> tuple[dict[str, str | None], list[str]]:
  """Applies the rules.

  Returns:
    The source of every parameter that has one, or None where it is to be new, in the order of the
    checkpoint; and the names that a rule leaves in the checkpoint.
  """
  used = set()

  def rule_for(name):
    for index, (pattern, source) in enumerate(rules):
      if match := re.fullmatch(pattern, name):
        used.add(index)
        return match, source
    return None

  sources: dict[str, str | None] = {}
  for name in shapes:
    rule = rule_for(name)
    if rule is None:
      if name in origin.shapes:
        sources[name] = name
    elif rule[1] is None:
      sources[name] = None
    else:
      sources[name] = _expand(*rule)
      if sources[name] not in origin.shapes:
        raise errors.UserError(
          f'ASSIGNMENT_MAP takes {name} from {sources[name]}, which {origin.path} does not have'
        )
  left = [name for name in origin.shapes if name not in sources.values() and rule_for(name)]
  for index, rule in enumerate(rules):
    if index not in used:
      raise errors.UserError(
        f'ASSIGNMENT_MAP has {rule!r}, which does nothing: its pattern matches no whole name, such '
        f'as {next(iter(shapes))}, or an earlier pattern matches all that it does'
      )
  position = {name: i for i, name in enumerate(origin.shapes)}
  in_order = sorted(sources, key=lambda name: position.get(sources[name], -1))
  return {name: sources[name] for name in in_order}, left


def _expand(match, source):
  try:
    return match.expand(source)
  except (re.error, IndexError) as error:
    raise errors.UserError(
      f'ASSIGNMENT_MAP has {(match.re.pattern, source)!r}: {error} in the second'
    ) from error


def _grows(name, saved, wanted) -> bool:
  axis = _VOCABULARY_AXES[name]
  return saved[axis] < wanted[axis] and saved[1 - axis] == wanted[1 - axis]


def _briefly(names: Sequence[str]) -> list[str]:
  """Names, those of the same parameter in several layers in one."""
  families: dict[str, list[str]] = {}
  for name in names:
    families.setdefault(_LAYER.sub('layers_*', name), []).append(name)
  return [
    members[0] if len(members) == 1 else f'{family} ({len(members)} layers)'
    for family, members in families.items()
  ]
