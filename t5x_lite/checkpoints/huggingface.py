"""Hugging Face's T5 folders: config.json and model.safetensors, in one file or in shards.

The older pytorch_model.bin are read, too, but not written.

Their kernels are [outputs, inputs], ours [inputs, outputs]; their relative position tables are
[buckets, heads], ours [heads, buckets]. All else is equal, to the bit.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from t5x_lite import errors, remote
from t5x_lite.checkpoints import folders, foreign, pytorch
from t5x_lite.models.config import T5Config

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
INDEX = f'{WEIGHTS}.index.json'
_PYTORCH_WEIGHTS = 'pytorch_model.bin'
TOKENIZER = 'tokenizer_config.json'
VOCABULARY = 'spiece.model'
# Weights are written in files of about this size, so that no more of them is in memory at a time.
SHARD_BYTES = 1024**3

# Our name, their name, and whether the one is the transpose of the other. {i} is the layer.
_SHARED = (
  ('token_embedder/embedding', 'shared.weight', False),
  ('encoder/encoder_norm/scale', 'encoder.final_layer_norm.weight', False),
  ('decoder/decoder_norm/scale', 'decoder.final_layer_norm.weight', False),
)  # fmt: skip
_OUTPUT = ('decoder/logits_dense/kernel', 'lm_head.weight', True)
# The relative position table of a stack, and of each layer where these have their own.
_STACK_TABLE = ('{stack}/relpos_bias/rel_embedding', '{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight', True)  # fmt: skip
_LAYER_TABLE = ('{stack}/layers_{i}/relpos_bias/rel_embedding', '{stack}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight', True)  # fmt: skip
_ENCODER_LAYER = (
  ('encoder/layers_{i}/pre_attention_layer_norm/scale', 'encoder.block.{i}.layer.0.layer_norm.weight', False),
  ('encoder/layers_{i}/attention/query/kernel', 'encoder.block.{i}.layer.0.SelfAttention.q.weight', True),
  ('encoder/layers_{i}/attention/key/kernel', 'encoder.block.{i}.layer.0.SelfAttention.k.weight', True),
  ('encoder/layers_{i}/attention/value/kernel', 'encoder.block.{i}.layer.0.SelfAttention.v.weight', True),
  ('encoder/layers_{i}/attention/out/kernel', 'encoder.block.{i}.layer.0.SelfAttention.o.weight', True),
  ('encoder/layers_{i}/pre_mlp_layer_norm/scale', 'encoder.block.{i}.layer.1.layer_norm.weight', False),
  ('encoder/layers_{i}/mlp/{wi}/kernel', 'encoder.block.{i}.layer.1.DenseReluDense.{wi}.weight', True),
  ('encoder/layers_{i}/mlp/wo/kernel', 'encoder.block.{i}.layer.1.DenseReluDense.wo.weight', True),
)  # fmt: skip
_DECODER_LAYER = (
  ('decoder/layers_{i}/pre_self_attention_layer_norm/scale', 'decoder.block.{i}.layer.0.layer_norm.weight', False),
  ('decoder/layers_{i}/self_attention/query/kernel', 'decoder.block.{i}.layer.0.SelfAttention.q.weight', True),
  ('decoder/layers_{i}/self_attention/key/kernel', 'decoder.block.{i}.layer.0.SelfAttention.k.weight', True),
  ('decoder/layers_{i}/self_attention/value/kernel', 'decoder.block.{i}.layer.0.SelfAttention.v.weight', True),
  ('decoder/layers_{i}/self_attention/out/kernel', 'decoder.block.{i}.layer.0.SelfAttention.o.weight', True),
  ('decoder/layers_{i}/pre_cross_attention_layer_norm/scale', 'decoder.block.{i}.layer.1.layer_norm.weight', False),
  ('decoder/layers_{i}/encoder_decoder_attention/query/kernel', 'decoder.block.{i}.layer.1.EncDecAttention.q.weight', True),
  ('decoder/layers_{i}/encoder_decoder_attention/key/kernel', 'decoder.block.{i}.layer.1.EncDecAttention.k.weight', True),
  ('decoder/layers_{i}/encoder_decoder_attention/value/kernel', 'decoder.block.{i}.layer.1.EncDecAttention.v.weight', True),
  ('decoder/layers_{i}/encoder_decoder_attention/out/kernel', 'decoder.block.{i}.layer.1.EncDecAttention.o.weight', True),
  ('decoder/layers_{i}/pre_mlp_layer_norm/scale', 'decoder.block.{i}.layer.2.layer_norm.weight', False),
  ('decoder/layers_{i}/mlp/{wi}/kernel', 'decoder.block.{i}.layer.2.DenseReluDense.{wi}.weight', True),
  ('decoder/layers_{i}/mlp/wo/kernel', 'decoder.block.{i}.layer.2.DenseReluDense.wo.weight', True),
)  # fmt: skip
_ACTIVATIONS = {
  'relu': ('relu',),
  'silu': ('silu',),
  'gelu_new': ('gelu',),
  'gated-relu': ('relu', 'linear'),
  'gated-gelu': ('gelu', 'linear'),  # By which they mean the approximation by tanh.
  'gated-silu': ('silu', 'linear'),
}
# Their types of model; 't5' is also what mT5 is written as.
_POSITION_SCHEMES = {
  't5': 'relative_bias',
  'mt5': 'relative_bias',
  'umt5': 'relative_bias_per_layer',
}
_MODEL_CLASSES = {
  'relative_bias': ('t5', 'T5ForConditionalGeneration'),
  'relative_bias_per_layer': ('umt5', 'UMT5ForConditionalGeneration'),
}
_BYTE_TOKENIZER = 'ByT5Tokenizer'
_NUM_BYTE_SENTINELS = 125  # ByT5 rounds its 259 ids up to 384.
# Second names that old files have for one array, and an array that no model has used.
_COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
_UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'


def names(config: T5Config) -> dict[str, tuple[str, bool]]:
  """Their name of each parameter, by ours with the layers apart, and whether it is transposed."""
  table = list(_SHARED)
  if not config.logits_via_embedding:
    table.append(_OUTPUT)
  gates = ['wi'] if len(config.mlp_activations) == 1 else ['wi_0', 'wi_1']
  stacks = (
    ('encoder', _ENCODER_LAYER, config.num_encoder_layers),
    ('decoder', _DECODER_LAYER, config.num_decoder_layers),
  )
  per_layer = config.position_scheme == 'relative_bias_per_layer'
  for stack, rows, num_layers in stacks:
    if not per_layer:
      table.append(_named(_STACK_TABLE, stack=stack))
    for i in range(num_layers):
      for row in [*rows, _LAYER_TABLE] if per_layer else rows:
        for wi in gates if '{wi}' in row[0] else ('',):
          table.append(_named(row, stack=stack, i=i, wi=wi))
  return {ours: (theirs, transposed) for ours, theirs, transposed in table}


def _named(row, **parts):
  ours, theirs, transposed = row
  return ours.format(**parts), theirs.format(**parts), transposed


def is_folder(path) -> bool:
  """Whether this is a folder of Hugging Face's, whole or not."""
  names = (CONFIG, WEIGHTS, INDEX, _PYTORCH_WEIGHTS, f'{_PYTORCH_WEIGHTS}.index.json')
  return any((path / name).is_file() for name in names)


def open_folder(folder: pathlib.Path) -> foreign.Weights:
  """Opens a model's folder; only arrays that should be copies of another are read yet.

  Raises:
    UserError: a file is missing or damaged, a copy differs, or the model is not a T5 that we have.
  """
  index, files = _files(folder)
  opened = {file: _open(file) for file in set(files.values())}
  for theirs, file in files.items():
    if theirs not in opened[file].shapes:
      raise errors.UserError(f'{file} has no {theirs}, which {index} says it has')
  config = _model_config(folder / CONFIG, output_is_there=_OUTPUT[1] in files)
  copies = {*_COPIES, _OUTPUT[1]} if config.logits_via_embedding else {*_COPIES}
  for theirs in copies & files.keys():
    _check_copy(folder, theirs, files, opened)
  ignored = {_UNUSED, *copies}
  ours = {theirs: (name, transposed) for name, (theirs, transposed) in names(config).items()}
  shapes, sources = {}, {}
  for theirs, file in files.items():
    if theirs in ignored:
      continue
    name, transposed = ours.get(theirs, (theirs, False))
    shape = tuple(opened[file].shapes[theirs])
    shapes[name] = shape[::-1] if transposed else shape
    sources[name] = (opened[file], theirs, transposed)
  embedding, output = _SHARED[0][0], _OUTPUT[0]
  if not config.logits_via_embedding and output not in shapes and embedding in shapes:
    shapes[output] = shapes[embedding][::-1]
    sources[output] = (*sources[embedding][:2], True)

  def read(name):
    file, theirs, transposed = sources[name]
    array = file.read(theirs)
    return array.T if transposed else array

  return foreign.Weights(str(folder), config, _fingerprint(folder), shapes, read)


def _check_copy(folder, name, files, opened):
  """Refuses an array that should be the embedding, where the folder has both, but is not."""
  embedding = _SHARED[0][1]
  if embedding in files and not np.array_equal(
    *(opened[files[theirs]].read(theirs) for theirs in (name, embedding))
  ):
    raise errors.UserError(
      f'{folder}: {name} differs from {embedding}, of which {CONFIG} makes it a copy: correct '
      'tie_word_embeddings and scale_decoder_outputs there, or the weights'
    )


def load_vocabulary(folder):
  """Returns the `seqio.Vocabulary` whose files lie beside the weights, or None if none does.

  Raises:
    UserError: they are damaged.
  """
  folder = remote.local(folder)
  settings = _read_json(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else {}
  is_bytes = settings.get('tokenizer_class') == _BYTE_TOKENIZER
  if not is_bytes and not (folder / VOCABULARY).is_file():
    return None
  from t5x_lite.data import vocabulary  # Imports TensorFlow.

  if is_bytes:
    import seqio  # Late: importing t5x_lite.data first keeps TensorFlow quiet and off the GPU.

    return seqio.ByteVocabulary(extra_ids=settings.get('extra_ids', _NUM_BYTE_SENTINELS))
  return vocabulary.open_sentencepiece(folder / VOCABULARY, settings.get('extra_ids'))


def _fingerprint(folder) -> dict[str, Any] | None:
  if (vocabulary := load_vocabulary(folder)) is None:
    return None
  from t5x_lite.data import vocabulary as vocabularies

  return vocabularies.fingerprint(vocabulary)


def _files(folder) -> tuple[str, dict[str, pathlib.Path]]:
  """Returns the name of the index, and the file of each array by its name there."""
  for weights in (WEIGHTS, _PYTORCH_WEIGHTS):
    index = f'{weights}.index.json'
    if (folder / index).is_file():
      return index, _indexed_files(folder, index)
    if (folder / weights).is_file():
      return index, dict.fromkeys(_open(folder / weights).shapes, folder / weights)
  raise errors.UserError(f'{folder} has {CONFIG}, but neither {WEIGHTS} nor {_PYTORCH_WEIGHTS}')


def _indexed_files(folder, index) -> dict[str, pathlib.Path]:
  files = _read_json(folder / index).get('weight_map')
  if not isinstance(files, dict):
    raise errors.UserError(f'{folder / index} has no weight_map: download it again')
  if missing := sorted({file for file in files.values() if not (folder / file).is_file()}):
    raise errors.UserError(
      f'{folder} lacks {", ".join(missing)} of the {len(set(files.values()))} files that {index} '
      'names: download them'
    )
  return {name: folder / file for name, file in files.items()}


@dataclasses.dataclass(frozen=True)
class _SafeTensors:
  """The arrays of one file, with the attributes of `pytorch.Arrays`."""

  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]


def _open(file) -> _SafeTensors | pytorch.Arrays:
  if file.suffix != '.safetensors':
    return pytorch.Arrays(file)

  def read(name):
    # Opened for each anew: of a file that stays open, all that was read stays mapped to memory.
    with safetensors.safe_open(file, 'numpy') as arrays:
      return arrays.get_tensor(name)

  try:
    with safetensors.safe_open(file, 'numpy') as arrays:
      shapes = {name: tuple(arrays.get_slice(name).get_shape()) for name in arrays.keys()}
  except (safetensors.SafetensorError, OSError) as error:
    raise errors.UserError(
      f'{file} is damaged or cut short ({error}): download it again'
    ) from error
  return _SafeTensors(shapes, read)


def _read_json(file) -> dict[str, Any]:
  try:
    content = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{file} cannot be read as JSON: {error}') from error
  if not isinstance(content, dict):
    raise errors.UserError(f'{file} holds no JSON object')
  return content


def _model_config(file, *, output_is_there: bool) -> T5Config:
  """Their configuration as ours."""
  settings = _read_json(file)
  if (model_type := settings.get('model_type')) not in _POSITION_SCHEMES:
    raise errors.UserError(
      f'{file} is of a model of type {model_type!r}; those that can be read are '
      f'{", ".join(_POSITION_SCHEMES)}'
    )
  required = ('vocab_size', 'd_model', 'num_heads', 'd_kv', 'd_ff', 'num_layers')
  if missing := [name for name in required if not isinstance(settings.get(name), int)]:
    raise errors.UserError(f'{file} does not say {", ".join(missing)}')
  activation = settings.get('feed_forward_proj', 'relu')
  if activation not in _ACTIVATIONS:
    raise errors.UserError(
      f'{file} has feed_forward_proj={activation!r}; it may be {", ".join(_ACTIVATIONS)}'
    )
  if (epsilon := settings.get('layer_norm_epsilon', 1e-6)) != 1e-6:
    raise errors.UserError(f'{file} has layer_norm_epsilon={epsilon}; T5 has 1e-06')
  return T5Config(
    vocab_size=settings['vocab_size'],
    emb_dim=settings['d_model'],
    num_heads=settings['num_heads'],
    head_dim=settings['d_kv'],
    mlp_dim=settings['d_ff'],
    num_encoder_layers=settings['num_layers'],
    num_decoder_layers=settings.get('num_decoder_layers') or settings['num_layers'],
    mlp_activations=_ACTIVATIONS[activation],
    logits_via_embedding=_is_tied(file, settings, output_is_there),
    relative_attention_num_buckets=settings.get('relative_attention_num_buckets', 32),
    relative_attention_max_distance=settings.get('relative_attention_max_distance', 128),
    position_scheme=_POSITION_SCHEMES[model_type],
  )


def _is_tied(file, settings, output_is_there) -> bool:
  """Whether the logits are products of the embedding with scaled outputs, and there is no matrix for them.

  transformers 5 call every model tied. They use `lm_head.weight` all the same where it is there, else
  the embedding, which T5 and mT5 may then multiply with outputs that are not scaled: see `open_folder`.
  """
  tied = bool(settings.get('scale_decoder_outputs', settings.get('tie_word_embeddings', True)))
  major, _, _ = str(settings.get('transformers_version')).partition('.')
  if major.isdigit() and int(major) >= 5:
    return {'mt5': False, 'umt5': not output_is_there}.get(settings['model_type'], tied)
  if not tied and not output_is_there:
    raise errors.UserError(
      f'{file} is of a model with an output matrix of its own, but there is no {_OUTPUT[1]}'
    )
  return tied


def write_folder(weights, folder, *, dtype: str = 'float32', tokenizer=None):
  """Writes a model as a folder that Hugging Face's transformers read; it appears complete or not at all.

  In memory are the arrays of one file and one stack of our layers, twice while it is read.

  Args:
    weights: a `foreign.Weights` or `origins.Checkpoint`.
    folder: must not exist, or be empty.
    dtype: that of the weights, one of `models.config.DTYPES`.
    tokenizer: contents of its files by name, see `tokenizer_files`.

  Raises:
    UserError: there is something in the folder, or the model is none that they have.
  """
  settings = _settings(weights.model, dtype)
  table = names(weights.model)
  if strangers := sorted(weights.shapes.keys() ^ table.keys()):
    raise errors.UserError(
      f'{weights.path} is not of a T5 that transformers have: {", ".join(strangers[:4])}'
    )
  with folders.new(folder) as unfinished:
    try:
      _write_weights(weights, table, unfinished, jnp.dtype(dtype))
    except safetensors.SafetensorError as error:
      raise errors.UserError(f'cannot write {folder}: {error}') from error
    _write_json(unfinished / CONFIG, settings)
    _write_json(
      unfinished / 'generation_config.json',
      {name: settings[name] for name in _TOKEN_IDS},
    )
    for name, content in (tokenizer or {}).items():
      (unfinished / name).write_bytes(content)


def _write_weights(weights, table, folder, dtype):
  """Writes the arrays in the order of `weights`, in as few files as hold them, with an index."""
  shards: list[list[str]] = [[]]
  size = total = 0
  for name, shape in weights.shapes.items():
    array_bytes = math.prod(shape) * dtype.itemsize
    if shards[-1] and size + array_bytes > SHARD_BYTES:
      shards.append([])
      size = 0
    shards[-1].append(name)
    size += array_bytes
    total += array_bytes
  files = [WEIGHTS]
  if len(shards) > 1:
    files = [f'model-{i:05d}-of-{len(shards):05d}.safetensors' for i in range(1, len(shards) + 1)]
    _write_json(
      folder / INDEX,
      {
        'metadata': {'total_size': total},
        'weight_map': {
          table[name][0]: file for file, shard in zip(files, shards, strict=True) for name in shard
        },
      },
    )
  for file, shard in zip(files, shards, strict=True):
    arrays = {}
    for name in shard:
      theirs, transposed = table[name]
      arrays[theirs] = _copy(weights.read(name), transposed, dtype)
    safetensors.numpy.save_file(arrays, folder / file, metadata={'format': 'pt'})


def _copy(array, transposed, dtype):
  """A copy, so that nothing refers any longer to the stack that a layer was a view of."""
  return np.array(array.T if transposed else array, dtype, order='C')


# What transformers want to know of the ids, whatever the model.
_TOKEN_IDS = ('pad_token_id', 'eos_token_id', 'decoder_start_token_id')


def _settings(model: T5Config, dtype: str) -> dict[str, Any]:
  """Our configuration as theirs."""
  if model.architecture != 'encoder_decoder' or model.position_scheme not in _MODEL_CLASSES:
    raise errors.UserError(
      f'transformers have no T5 with architecture={model.architecture!r} and position_scheme='
      f"{model.position_scheme!r}; they have 'encoder_decoder' with "
      f'{" or ".join(map(repr, _MODEL_CLASSES))}'
    )
  model_type, model_class = _MODEL_CLASSES[model.position_scheme]
  activations = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
  if model.mlp_activations not in activations:
    raise errors.UserError(
      f'transformers have no T5 with mlp_activations={model.mlp_activations}; those they have are '
      f'{", ".join(map(str, activations))}'
    )
  return {
    'architectures': [model_class],
    'model_type': model_type,
    'vocab_size': model.vocab_size,
    'd_model': model.emb_dim,
    'd_kv': model.head_dim,
    'd_ff': model.mlp_dim,
    'num_heads': model.num_heads,
    'num_layers': model.num_encoder_layers,
    'num_decoder_layers': model.num_decoder_layers,
    'feed_forward_proj': activations[model.mlp_activations],
    'relative_attention_num_buckets': model.relative_attention_num_buckets,
    'relative_attention_max_distance': model.relative_attention_max_distance,
    'dropout_rate': model.dropout_rate,
    'layer_norm_epsilon': 1e-6,
    'initializer_factor': 1.0,
    # They read from this, too, whether the hidden states are scaled before the output matrix.
    'tie_word_embeddings': model.logits_via_embedding,
    'is_encoder_decoder': True,
    'use_cache': True,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'decoder_start_token_id': 0,
    'dtype': dtype,
  }


def tokenizer_files(vocabulary) -> dict[str, bytes]:
  """Returns the files of their tokenizer, by name; none if they have none for a `seqio.Vocabulary`."""
  from t5x_lite.data import vocabulary as vocabularies  # Imports TensorFlow.

  settings = {'pad_token': '<pad>', 'eos_token': '</s>', 'unk_token': '<unk>'}
  settings['extra_ids'] = vocabulary.extra_ids
  if vocabularies.fingerprint(vocabulary)['type'] == 'bytes':
    settings['tokenizer_class'] = _BYTE_TOKENIZER
    return {TOKENIZER: _json(settings)}
  if model_file := vocabularies.t5_sentencepiece_file(vocabulary):
    settings['tokenizer_class'] = 'T5Tokenizer'
    return {VOCABULARY: pathlib.Path(model_file).read_bytes(), TOKENIZER: _json(settings)}
  return {}


def _json(content) -> bytes:
  return (json.dumps(content, indent=2) + '\n').encode()


def _write_json(file, content):
  file.write_bytes(_json(content))
