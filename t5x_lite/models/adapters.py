"""Adapters: the few parameters that are trained in place of a model's own.

Each lies beside what it adapts, so that scanning, sharding and checkpoints treat it like any other
parameter: LoRA's are `.../kernel`, `.../lora_a` and `.../lora_b`, (IA)^3's `.../kernel` and
`.../ia3`, and the soft prompt is `prompt/embedding`.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from t5x_lite import errors
from t5x_lite.models import parameters, selection
from t5x_lite.models.config import IA3, LoRA, Prompt

_PARAMETER = re.compile(r'.*/(lora_a|lora_b|ia3)|prompt/embedding')
# What (IA)^3 rescales: the outputs of these maps, and the inputs of that.
_IA3_OUTPUTS = ('key', 'value')
_IA3_INPUTS = ('wo',)
# The rows a prompt begins as: Lester et al. 2021, section 3.2, took T5's 5,000 likeliest pieces,
# which come first in a SentencePiece vocabulary, after padding, EOS and the unknown.
_PROMPT_ROWS = (3, 5000)


def is_parameter(name):
  """Whether a parameter of this name is an adapter's."""
  return bool(_PARAMETER.fullmatch(name))


def apply(dense, x, kernel, project):
  """Returns what the linear map `dense` with its adapter makes of x.

  Args:
    dense: the `layers.Dense`, in whose scope the adapter's parameters are made.
    x: [..., inputs].
    kernel: [inputs, features].
    project: function of (x, matrix), see `layers.project`.

  Returns:
    [..., features].
  """
  adapter, own_name = dense.adapter, dense.path[-1]
  inputs, outputs = dense.kernel_axes

  def parameter(name, init, shape, axes):
    return parameters.make(dense, name, init, shape, axes).astype(x.dtype)

  if isinstance(adapter, LoRA) and selection.matches(
    adapter.kernels, '/'.join((*dense.path, 'kernel'))
  ):
    gaussian, zeros = parameters.fan_in_normal(), parameters.ZEROS
    a = parameter('lora_a', gaussian, (kernel.shape[0], adapter.rank), (inputs, None))
    b = parameter('lora_b', zeros, (adapter.rank, kernel.shape[1]), (None, outputs))
    dropped = nn.Dropout(adapter.dropout_rate)(x, deterministic=not dense.has_rng('dropout'))
    return project(x, kernel) + project(project(dropped, a), b) * adapter.scale
  if isinstance(adapter, IA3) and own_name in _IA3_OUTPUTS:
    scale = parameter('ia3', parameters.ONES, kernel.shape[1:], (outputs,))
    return project(x, kernel) * scale
  if isinstance(adapter, IA3) and own_name in _IA3_INPUTS:
    scale = parameter('ia3', parameters.ONES, kernel.shape[:1], (inputs,))
    return project(x * scale, kernel)
  return project(x, kernel)


def _uniform(key, shape, dtype):
  return jax.random.uniform(key, shape, dtype, -0.5, 0.5)


class SoftPrompt(nn.Module):
  """The parameters of a `Prompt`."""

  prompt: Prompt

  @nn.compact
  def __call__(self, embedded):
    """Puts the prompt before x [batch, length, embed]: [batch, prompt + length, embed]."""
    batch_size, _, emb_dim = embedded.shape
    shape = (self.prompt.length, emb_dim)
    embedding = parameters.make(self, 'embedding', _uniform, shape, (None, 'embed'))
    embedding = embedding.astype(embedded.dtype)
    rows = jnp.broadcast_to(embedding, (batch_size, *embedding.shape))
    return jnp.concatenate([rows, embedded], axis=1)


def check_packing(adapter, is_packed):
  """Raises UserError if a prompt is to stand before rows of several examples."""
  if is_packed and isinstance(adapter, Prompt):
    raise errors.UserError(
      'a Prompt stands before one example a row, but the rows are packed: set PACK=False'
    )


def check_params(adapter, params):
  """Refuses a LoRA whose pattern matches no kernel, or some layers of a scanned one only.

  Args:
    adapter: of the model.
    params: the model's parameters or their shapes, a nested dict.

  Raises:
    UserError: naming the kernels.
  """
  if not isinstance(adapter, LoRA):
    return
  flat = traverse_util.flatten_dict(params, sep='/')
  kernels = {
    name: x for name, x in flat.items() if re.fullmatch(r'.*/layers(_\d+)?/.*/kernel', name)
  }
  if not selection.choose(adapter.kernels, kernels):
    raise errors.UserError(
      f'LoRA.kernels={adapter.kernels!r} matches none of the kernels, which are '
      + selection.listed(kernels)
    )


def split_new(params, known):
  """Returns (the parameters a model takes from elsewhere, the adapter's that it makes anew).

  Args:
    params: nested dict of all of them.
    known: names of those that are there to be taken.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  new = {name for name in flat if is_parameter(name) and name not in known}
  return selection.split(params, flat.keys() - new)


def initialize(adapter, params, seed):
  """Returns the parameters of a model whose base is there, an untrained prompt made of its rows.

  Args:
    adapter: of the model.
    params: all parameters, those of the adapter new.
    seed: of the choice of rows.
  """
  if not isinstance(adapter, Prompt) or adapter.init != 'vocabulary':
    return params

  def rows(table, prompt):
    first, last = _PROMPT_ROWS[0], min(_PROMPT_ROWS[1], table.shape[0])
    replace = adapter.length > last - first
    key = jax.random.key(seed)
    ids = jax.random.choice(key, jnp.arange(first, last), (adapter.length,), replace)
    return jnp.take(table, ids, axis=0).astype(prompt.dtype)

  prompt = params['prompt']['embedding']
  table = params['token_embedder']['embedding']
  made = jax.jit(rows, out_shardings=prompt.sharding)(table, prompt)
  return {**params, 'prompt': {'embedding': made}}


def check_mergeable(adapter):
  """Raises UserError for a prompt, which is no part of any kernel."""
  if isinstance(adapter, Prompt):
    raise errors.UserError(
      'a Prompt stands before the inputs and is no part of any kernel: it cannot be merged'
    )


def merge_one(adapter, name, array, find):
  """Returns a parameter of the model without its adapter that computes the same.

  Args:
    adapter: of the model.
    name: of a parameter that is not the adapter's.
    array: that parameter, a numpy array, of one layer.
    find: function of the name of another parameter; returns it, or None.
  """
  folder, _, last = name.rpartition('/')
  if last != 'kernel':
    return array
  a, b, scale = (find(f'{folder}/{part}') for part in ('lora_a', 'lora_b', 'ia3'))
  if a is not None:
    return array + a @ b * np.float32(adapter.scale)
  if scale is not None:  # [inputs] of wo, [features] of the others.
    is_of_inputs = folder.rpartition('/')[2] in _IA3_INPUTS
    return array * (scale[:, None] if is_of_inputs else scale)
  return array
