"""The checkpoints of T5's original release, which Mesh-TensorFlow wrote with TensorFlow.

All their arrays have the axes that ours have, unless attention kernels were told not to combine
heads and head_dim, which T5's were not.
"""

import math
import re

from etils import epath

from t5x_lite import errors
from t5x_lite.checkpoints import foreign

# Our name and theirs. {i} is the layer, {norm} and {final} what versions call a norm.
_SHARED = (
  ('token_embedder/embedding', 'shared/embedding'),
  ('encoder/encoder_norm/scale', 'encoder/{final}/scale'),
  ('decoder/decoder_norm/scale', 'decoder/{final}/scale'),
  ('decoder/logits_dense/kernel', 'decoder/logits/kernel'),
)
_ENCODER_LAYER = (
  ('encoder/layers_{i}/pre_attention_layer_norm/scale', 'encoder/block_{i:03d}/layer_000/{norm}/scale'),
  ('encoder/layers_{i}/attention/query/kernel', 'encoder/block_{i:03d}/layer_000/SelfAttention/q'),
  ('encoder/layers_{i}/attention/key/kernel', 'encoder/block_{i:03d}/layer_000/SelfAttention/k'),
  ('encoder/layers_{i}/attention/value/kernel', 'encoder/block_{i:03d}/layer_000/SelfAttention/v'),
  ('encoder/layers_{i}/attention/out/kernel', 'encoder/block_{i:03d}/layer_000/SelfAttention/o'),
  ('encoder/layers_{i}/pre_mlp_layer_norm/scale', 'encoder/block_{i:03d}/layer_001/{norm}/scale'),
  ('encoder/layers_{i}/mlp/wi/kernel', 'encoder/block_{i:03d}/layer_001/DenseReluDense/wi/kernel'),
  ('encoder/layers_{i}/mlp/wi_0/kernel', 'encoder/block_{i:03d}/layer_001/DenseReluDense/wi_0/kernel'),
  ('encoder/layers_{i}/mlp/wi_1/kernel', 'encoder/block_{i:03d}/layer_001/DenseReluDense/wi_1/kernel'),
  ('encoder/layers_{i}/mlp/wo/kernel', 'encoder/block_{i:03d}/layer_001/DenseReluDense/wo/kernel'),
)  # fmt: skip
_DECODER_LAYER = (
  ('decoder/layers_{i}/pre_self_attention_layer_norm/scale', 'decoder/block_{i:03d}/layer_000/{norm}/scale'),
  ('decoder/layers_{i}/self_attention/query/kernel', 'decoder/block_{i:03d}/layer_000/SelfAttention/q'),
  ('decoder/layers_{i}/self_attention/key/kernel', 'decoder/block_{i:03d}/layer_000/SelfAttention/k'),
  ('decoder/layers_{i}/self_attention/value/kernel', 'decoder/block_{i:03d}/layer_000/SelfAttention/v'),
  ('decoder/layers_{i}/self_attention/out/kernel', 'decoder/block_{i:03d}/layer_000/SelfAttention/o'),
  ('decoder/layers_{i}/pre_cross_attention_layer_norm/scale', 'decoder/block_{i:03d}/layer_001/{norm}/scale'),
  ('decoder/layers_{i}/encoder_decoder_attention/query/kernel', 'decoder/block_{i:03d}/layer_001/EncDecAttention/q'),
  ('decoder/layers_{i}/encoder_decoder_attention/key/kernel', 'decoder/block_{i:03d}/layer_001/EncDecAttention/k'),
  ('decoder/layers_{i}/encoder_decoder_attention/value/kernel', 'decoder/block_{i:03d}/layer_001/EncDecAttention/v'),
  ('decoder/layers_{i}/encoder_decoder_attention/out/kernel', 'decoder/block_{i:03d}/layer_001/EncDecAttention/o'),
  ('decoder/layers_{i}/pre_mlp_layer_norm/scale', 'decoder/block_{i:03d}/layer_002/{norm}/scale'),
  ('decoder/layers_{i}/mlp/wi/kernel', 'decoder/block_{i:03d}/layer_002/DenseReluDense/wi/kernel'),
  ('decoder/layers_{i}/mlp/wi_0/kernel', 'decoder/block_{i:03d}/layer_002/DenseReluDense/wi_0/kernel'),
  ('decoder/layers_{i}/mlp/wi_1/kernel', 'decoder/block_{i:03d}/layer_002/DenseReluDense/wi_1/kernel'),
  ('decoder/layers_{i}/mlp/wo/kernel', 'decoder/block_{i:03d}/layer_002/DenseReluDense/wo/kernel'),
)  # fmt: skip
# Of the whole stack if the first layer alone has one, which it then has for all.
_TABLE = (
  '{stack}/relpos_bias/rel_embedding',
  '{stack}/layers_{i}/relpos_bias/rel_embedding',
  '{stack}/block_{i:03d}/layer_000/SelfAttention/relative_attention_bias',
)
_NORMS = ('rms_norm', 'layer_norm')
_FINAL_NORMS = ('final_layer_norm', 'rms_norm')
_SLOTS = {'_slot_vr': 'v_row', '_slot_vc': 'v_col', '_slot_v': 'v', '_slot_m': 'm'}
_STEP = 'global_step'
# Variables elsewhere are no part of a model.
_MODEL = ('shared/', 'encoder/', 'decoder/', 'transformer/')
_INDEX = '.index'
_CHECKPOINT = re.compile(r'model\.ckpt-(\d+)\.index')
_BLOCK = re.compile(r'(encoder|decoder)/block_(\d+)/.*')
_VARIABLE = re.compile(r'(?P<name>.+?)(?P<slot>_slot_vr|_slot_vc|_slot_v|_slot_m)?')


def is_checkpoint(path: epath.Path) -> bool:
  """Whether this is a TensorFlow checkpoint, or a folder of some that Mesh-TensorFlow named."""
  return _find(path) is not None


def open_checkpoint(path: epath.Path) -> foreign.Weights:
  """Opens a checkpoint; only names, shapes and the step are read yet.

  Args:
    path: of a checkpoint's files up to `.index`, with that or without it, or of a folder with
      files `model.ckpt-N.index`, for the newest.

  Raises:
    UserError: there is none, a part of it is missing or damaged, or it holds no parameters.
  """
  path = path.expanduser()
  prefix = _find(path)
  if prefix is None:
    raise errors.UserError(
      f'there is no checkpoint of Mesh-TensorFlow at {path}: give a folder with model.ckpt-N.index '
      'and model.ckpt-N.data-*, or the path of these files up to model.ckpt-N'
    )
  _check_data(prefix)
  from t5x_lite.data import tensorflow_checkpoints  # Imports TensorFlow.

  variables, read_variable = tensorflow_checkpoints.open_variables(str(prefix))
  table = names(variables)
  ours = {theirs: name for name, theirs in table.items()}
  if 'token_embedder/embedding' not in table:
    raise errors.UserError(
      f'{prefix} holds no T5 of Mesh-TensorFlow: there is no shared/embedding among its '
      f'{len(variables)} variables'
    )
  shapes, slots, sources = {}, {}, {}
  for theirs, shape in sorted(variables.items()):
    variable, slot = _VARIABLE.fullmatch(theirs).group('name', 'slot')
    if slot is None:
      if variable in ours or variable.startswith(_MODEL):
        name = ours.get(variable, variable)
        shapes[name] = _our_shape(variable, shape)
        sources[name] = theirs
    # The means over two of three axes are not those of our matrices.
    elif variable in ours and len(variables[variable]) <= 2:
      name = f'{_our_slot(_SLOTS[slot], variables[variable])}/{ours[variable]}'
      slots[name] = shape
      sources[name] = theirs
  all_shapes = shapes | slots
  return foreign.Weights(
    path=str(prefix),
    model=None,
    vocabulary=None,
    shapes=shapes,
    read=lambda name: read_variable(sources[name]).reshape(all_shapes[name]),
    step=int(read_variable(_STEP)) if _STEP in variables else None,
    slots=slots,
  )


def names(variables) -> dict[str, str]:
  """Their name of each parameter that is among the variables, by ours with the layers apart."""
  num_layers = {'encoder': 0, 'decoder': 0}
  for match in filter(None, map(_BLOCK.fullmatch, variables)):
    num_layers[match[1]] = max(num_layers[match[1]], int(match[2]) + 1)
  table = []
  for final in _FINAL_NORMS:
    table += [(ours, theirs.format(final=final)) for ours, theirs in _SHARED]
  for stack, rows in (('encoder', _ENCODER_LAYER), ('decoder', _DECODER_LAYER)):
    for i in range(num_layers[stack]):
      for norm in _NORMS:
        table += [(ours.format(i=i), theirs.format(i=i, norm=norm)) for ours, theirs in rows]
    of_stack, of_layer, theirs = _TABLE
    tables = [theirs.format(stack=stack, i=i) for i in range(num_layers[stack])]
    shared = not any(name in variables for name in tables[1:])
    for i, name in enumerate(tables):
      table.append(((of_stack if shared else of_layer).format(stack=stack, i=i), name))
  return {ours: theirs for ours, theirs in table if theirs in variables}


def _our_shape(variable, shape) -> tuple[int, ...]:
  """[model, heads, head_dim] of the kernels q, k and v, and [heads, head_dim, model] of o, as matrices."""
  if len(shape) != 3:
    return shape
  if variable.endswith('/o'):
    return (math.prod(shape[:2]), shape[2])
  return (shape[0], math.prod(shape[1:]))


def _our_slot(slot, shape) -> str:
  """Whether what they call the rows is that for optax.

  Both average the squares over the longer axis for `v_row` and over the shorter for `v_col`. Of two
  equal axes, which Mesh-TensorFlow sorts from long to short, the first counts as the longer; optax
  sorts from short to long, and the last does.
  """
  is_square = len(shape) == 2 and shape[0] == shape[1]
  return {'v_row': 'v_col', 'v_col': 'v_row'}.get(slot, slot) if is_square else slot


def _find(path):
  """The path of a checkpoint's files up to `.index`."""
  if path.name.endswith(_INDEX) and path.is_file():
    return path.parent / path.name.removesuffix(_INDEX)
  if (path.parent / f'{path.name}{_INDEX}').is_file():
    return path
  if not path.is_dir():
    return None
  steps = {
    int(match[1]): child for child in path.iterdir() if (match := _CHECKPOINT.fullmatch(child.name))
  }
  return _find(steps[max(steps)]) if steps else None


def _check_data(prefix):
  """Refuses a checkpoint that lacks one of its files of data, whose names say how many there are."""
  files = sorted(file.name for file in prefix.parent.glob(f'{prefix.name}.data-*-of-*'))
  if not files:
    raise errors.UserError(f'{prefix}{_INDEX} has no {prefix.name}.data-* beside it: copy them too')
  number = files[0].rpartition('-')[2]
  needed = [f'{prefix.name}.data-{i:05d}-of-{number}' for i in range(int(number))]
  if missing := sorted({*needed} - {*files}):
    raise errors.UserError(
      f'{prefix} lacks {", ".join(missing[:4])} of its {int(number)} files of data: copy them too'
    )
