"""Parameters in the format of another project, whichever it is."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from t5x_lite import errors
from t5x_lite.checkpoints import layout
from t5x_lite.models.config import T5Config


@dataclasses.dataclass(frozen=True)
class Weights:
  """Parameters, and the state of their optimizer, that are read one by one.

  Attributes:
    path: what errors call them.
    model: of which they are, or None where the format does not say; see `model_of`.
    vocabulary: its fingerprint, see `data.vocabulary`, or None where the format keeps none.
    shapes: of each array, by our name for it with the layers apart, or by theirs if we have none;
      those that are kept in one array follow each other.
    read: function of such a name, or one of `slots`; returns the numpy array, in the dtype it is
      kept in.
    step: the number of training steps done, or None where the format does not say.
    slots: shapes of what Adafactor keeps of each parameter, by `v_row/`, `v_col/`, `v/` or `m/` and
      the parameter's name, with optax's meaning: see `v_row_axis`. Empty for other optimizers.
  """

  path: str
  model: T5Config | None
  vocabulary: Mapping[str, Any] | None
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]
  step: int | None = None
  slots: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

  def plan(self, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, layout.Origin]:
    """Returns the origin of every array of a model, by name.

    Args:
      wanted: shapes of the model's parameters, in either form of layers.

    Raises:
      UserError: they are not those that are here.
    """
    plan = layout.plan(self.shapes, wanted)
    if problems := layout.differences(plan, wanted):
      raise errors.UserError(
        f'{self.path} does not fit this model: {"; ".join(problems)}; use the configuration of '
        'the model it is of'
      )
    return plan

  def restore_params(self, abstract_params, keep=None):
    """Returns the parameters, reading one after the other; of a scanned one all layers at a time.

    Args:
      abstract_params: pytree of jax.ShapeDtypeStruct with shardings, of either form of layers.
      keep: function of a name and its array; returns what is kept in its place. None keeps all.

    Raises:
      UserError: they do not fit, in which case nothing is read.
    """
    wanted = layout.flatten(abstract_params)
    plan = self.plan({name: tuple(leaf.shape) for name, leaf in wanted.items()})
    # Not in the order of the run: an array that holds several of these would be read many times.
    kept_order = {name: position for position, name in enumerate(self.shapes)}
    made = {}
    for name in sorted(wanted, key=lambda name: kept_order[plan[name].names[0]]):
      array = _make(plan[name], wanted[name], self.read)
      made[name] = array if keep is None else keep(name, array)
    return layout.rebuild(abstract_params, made)

  def restore_state(self, abstract_state):
    """Returns the whole train state: parameters, Adafactor's state and the step.

    Args:
      abstract_state: TrainState of jax.ShapeDtypeStruct with shardings, of either form of layers.

    Raises:
      UserError: the parameters do not fit, or the optimizer keeps something that is not here.
    """
    shapes = dict(self.slots)
    for name in self.slots:
      slot, _, param = name.partition('/')
      if slot == 'v_row':  # From it and `v_col` follows the whole, where optax wants that.
        shapes.setdefault(f'v/{param}', self.shapes[param])
    made, wanted = {}, {}
    leaves = layout.flatten(abstract_state.opt_state)
    for name, leaf in leaves.items():
      *_, last = name.split('/')
      slot = _OPTAX_SLOT.fullmatch(name)
      if last == 'count':
        made[name] = _put(np.asarray(self.step), leaf)
      elif slot and leaf.shape == _PLACEHOLDER:
        made[name] = _put(np.zeros(_PLACEHOLDER), leaf)
      else:
        wanted[name] = f'{_SLOT_OF[slot["slot"]]}/{slot["param"]}' if slot else name
    wanted_shapes = {wanted[name]: tuple(leaves[name].shape) for name in wanted}
    plan = layout.plan(shapes, wanted_shapes)
    known = {name: origin for name, origin in plan.items() if name in wanted_shapes}
    if problems := layout.differences(known, wanted_shapes):
      raise errors.UserError(
        f'{self.path} holds another state than the optimizer of this run: {"; ".join(problems)}; '
        'use Adafactor with the settings it was trained with, or RESTORE_OPTIMIZER_STATE=False'
      )
    params = self.restore_params(abstract_state.params)
    for name, slot in wanted.items():
      made[name] = _make(plan[slot], leaves[name], self._read_slot)
    return abstract_state.replace(
      step=_put(np.asarray(self.step), abstract_state.step),
      params=params,
      opt_state=layout.rebuild(abstract_state.opt_state, made),
    )

  def _read_slot(self, name):
    if name in self.slots:
      return self.read(name)
    param = name.removeprefix('v/')
    row, column = self.read(f'v_row/{param}'), self.read(f'v_col/{param}')
    whole = np.outer(row, column) / row.mean()  # Shazeer and Stern 2018, algorithm 4.
    return whole if v_row_axis(self.shapes[param]) == 0 else whole.T


# An array of optax's Adafactor in the state of a chain, and what T5X calls it.
_OPTAX_SLOT = re.compile(r'(?:\d+/)*(?P<slot>v_row|v_col|v|ema)/(?P<param>.+)')
_SLOT_OF = {'v_row': 'v_row', 'v_col': 'v_col', 'v': 'v', 'ema': 'm'}
# What optax keeps where a parameter has no use for a slot.
_PLACEHOLDER = (1,)


def _make(origin, leaf, read):
  """One array of a run, of one or more that are read."""
  arrays = [read(name) for name in origin.names]
  return _put(np.stack(arrays) if origin.stacked else arrays[0], leaf)


def _put(array, leaf):
  return jax.make_array_from_callback(
    leaf.shape, leaf.sharding, lambda index: array[index].astype(leaf.dtype)
  )


def v_row_axis(shape: tuple[int, int]) -> int:
  """The axis of a matrix that optax's `v_row` has: the shorter one, or the first of two equals.

  The squared gradients are averaged over the other axis; `v_col` has it the other way round.
  """
  return 0 if shape[0] <= shape[1] else 1


def model_of(shapes: Mapping[str, tuple[int, ...]]) -> T5Config:
  """Infers the model from the names and shapes of its parameters.

  What they do not show is taken to be as in T5: relu in a plain feed-forward layer, gelu in a gated
  one, and 128 as `relative_attention_max_distance`.

  Args:
    shapes: of each parameter, by our name for it with the layers apart.

  Raises:
    UserError: these are not the parameters of a T5.
  """
  gated = 'encoder/layers_0/mlp/wi_0/kernel' in shapes
  per_layer = 'encoder/layers_0/relpos_bias/rel_embedding' in shapes
  layer = 'layers_0/' if per_layer else ''
  needed = {
    'token_embedder/embedding': 2,
    f'encoder/{layer}relpos_bias/rel_embedding': 2,
    f'decoder/{layer}relpos_bias/rel_embedding': 2,
    'encoder/layers_0/attention/query/kernel': 2,
    'decoder/layers_0/self_attention/query/kernel': 2,
    f'encoder/layers_0/mlp/{"wi_0" if gated else "wi"}/kernel': 2,
  }
  if missing := [name for name, rank in needed.items() if len(shapes.get(name, ())) != rank]:
    raise errors.UserError(
      f'these are not the parameters of a T5: there is no matrix {", ".join(missing)}'
    )
  embedding, bias, _, query, _, wi = (shapes[name] for name in needed)
  if query[1] % bias[0]:
    raise errors.UserError(
      f'these are not the parameters of a T5: the {query[1]} columns of its query kernels are not '
      f'divisible by the {bias[0]} heads of its relative position table'
    )
  return T5Config(
    vocab_size=embedding[0],
    emb_dim=embedding[1],
    num_heads=bias[0],
    head_dim=query[1] // bias[0],
    mlp_dim=wi[1],
    num_encoder_layers=_num_layers(shapes, 'encoder'),
    num_decoder_layers=_num_layers(shapes, 'decoder'),
    mlp_activations=('gelu', 'linear') if gated else ('relu',),
    logits_via_embedding='decoder/logits_dense/kernel' not in shapes,
    relative_attention_num_buckets=bias[1],
    position_scheme='relative_bias_per_layer' if per_layer else 'relative_bias',
  )


def _num_layers(shapes, stack):
  layer = re.compile(rf'{stack}/layers_(\d+)/.*')
  return len({match[1] for match in map(layer.fullmatch, shapes) if match})
