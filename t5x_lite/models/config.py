"""The shape and numerics of one T5 model."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_lite import errors

START_ID = 0  # The padding id, which a decoder reads before its first token.
ARCHITECTURES = (
  'encoder_decoder',
  'shared_encoder_decoder',
  'language_model',
  'prefix_language_model',
)
POSITION_SCHEMES = (
  'relative_bias',
  'relative_bias_per_layer',
  'rotary',
  'sinusoidal',
  'learned',
)
ACTIVATIONS = ('gelu', 'linear', 'relu', 'silu')
# Activations of a layer that the backward pass may find kept, in the order in which they are made.
REMAT_NAMES = (
  'layer_input',
  'query',
  'key',
  'value',
  'attention_weights',
  'context',
  'attention_out',
  'mlp_wi',
)
# Which of them each policy keeps that recomputes the others.
REMAT_POLICIES = {
  'minimal': ('query', 'key', 'value', 'attention_out', 'mlp_wi'),
  'full': (),
}
DTYPES = ('float32', 'bfloat16', 'float16')
MATMUL_DTYPES = (None, 'float8')


def _kind(name):
  """The field that tells the adapters apart in a checkpoint's metadata."""
  return dataclasses.field(default=name, init=False, repr=False)


@dataclasses.dataclass(frozen=True)
class LoRA:
  """Low-rank updates of kernels: x W + dropout(x) A B alpha / rank (Hu et al. 2021, section 4.1).

  A begins as Gaussian noise and B as zeros, so that a new model computes what its base does.

  Attributes:
    rank: columns of A and rows of B.
    alpha: the product is scaled by alpha / rank.
    dropout_rate: of the inputs of A.
    kernels: regular expression for the names of the kernels that are updated. The output matrix
      and the embedding are not among them.
  """

  rank: int = 8
  alpha: float = 16.0
  dropout_rate: float = 0.0
  kernels: str = '.*attention/(query|value)/kernel'
  kind: str = _kind('LoRA')

  def __post_init__(self):
    if self.rank < 1:
      raise errors.UserError(f'LoRA.rank={self.rank} must be at least 1')
    if not 0 <= self.dropout_rate < 1:
      raise errors.UserError(f'LoRA.dropout_rate={self.dropout_rate} is not in [0, 1)')
    try:
      re.compile(self.kernels)
    except re.error as error:
      raise errors.UserError(f'LoRA.kernels={self.kernels!r}: {error}') from error

  @property
  def scale(self) -> float:
    """What the product of A and B is multiplied by."""
    return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class IA3:
  """Learned scales of keys, values and feed-forward hidden units (Liu et al. 2022, section 3.3).

  They begin as ones, so that a new model computes what its base does.
  """

  kind: str = _kind('IA3')


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A learned prefix of the embedded encoder inputs (Lester et al. 2021, section 2).

  Attributes:
    length: vectors put before every input; the encoder reads so many positions more.
    init: 'vocabulary', rows of the embedding drawn among the likeliest 5,000, or 'uniform', in
      [-0.5, 0.5] (section 3.2).
  """

  length: int = 100
  init: str = 'vocabulary'
  kind: str = _kind('Prompt')

  def __post_init__(self):
    if self.length < 1:
      raise errors.UserError(f'Prompt.length={self.length} must be at least 1')
    if self.init not in ('vocabulary', 'uniform'):
      raise errors.UserError(f"Prompt.init is 'vocabulary' or 'uniform', not {self.init!r}")


Adapter = LoRA | IA3 | Prompt


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Hyperparameters of the models of Raffel et al. 2020, sections 2.1 and 3.2.

  T5 1.0 has `mlp_activations=('relu',)` and `logits_via_embedding=True`; T5 1.1 has
  `('gelu', 'linear')`, the gated GELU of Shazeer 2020, and a separate output matrix.

  Attributes:
    vocab_size: rows of the embedding; the vocabulary's size rounded up (32100 -> 32128).
    emb_dim: width of the residual stream, d_model in the paper.
    num_heads: attention heads.
    head_dim: width of one head, d_kv; num_heads * head_dim need not equal emb_dim.
    mlp_dim: width of the feed-forward layer, d_ff.
    num_encoder_layers: blocks of the encoder; 0 in a language model, which has none.
    num_decoder_layers: blocks of the decoder.
    architecture: 'encoder_decoder'; 'shared_encoder_decoder', whose two stacks share the parameters
      of self-attention and feed-forward; 'language_model', a decoder alone; or
      'prefix_language_model', one that sees all of its inputs from each of them.
    position_scheme: 'relative_bias', T5's, one table for the layers of a stack;
      'relative_bias_per_layer', a table for each, as in umT5; 'rotary'; 'sinusoidal'; or 'learned'.
    max_position_embeddings: rows of a learned table, the most positions of a stack: inputs and
      targets together where there is no encoder. None in the other schemes.
    mlp_activations: one activation for a plain feed-forward layer; several for a gated one,
      whose outputs are multiplied.
    logits_via_embedding: the output matrix is the embedding, scaled by emb_dim**-0.5.
    dropout_rate: applied only where a 'dropout' random key is given.
    dtype: of the activations; parameters, softmax and loss are float32.
    matmul_dtype: 'float8' to round to it, in training, the operands of the products with weights of
      attention and feed-forward, see `models.float8`; None for `dtype`.
    scan_layers: compile one block and loop over stacked parameters, instead of unrolling.
    remat_policy: what the backward pass recomputes: 'none'; 'minimal', everything but the
      outputs of matrix multiplications with weights; 'full', everything inside a block; or, as
      names out of `REMAT_NAMES`, everything but these.
    remat_offload: names of activations that are kept in the host's memory.
    relative_attention_num_buckets: rows of a relative position table.
    relative_attention_max_distance: distance from which all positions share the last bucket.
    adapter: `LoRA`, `IA3`, `Prompt`, or None for the model itself.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_encoder_layers: int
  num_decoder_layers: int
  mlp_activations: Sequence[str] = ('gelu', 'linear')
  logits_via_embedding: bool = False
  dropout_rate: float = 0.0
  dtype: str = 'bfloat16'
  matmul_dtype: str | None = None
  scan_layers: bool = True
  remat_policy: str | Sequence[str] = 'none'
  remat_offload: Sequence[str] = ()
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  architecture: str = 'encoder_decoder'
  position_scheme: str = 'relative_bias'
  max_position_embeddings: int | None = None
  adapter: Adapter | None = None

  def __post_init__(self):
    for name in ('mlp_activations', 'remat_policy', 'remat_offload'):
      value = getattr(self, name)
      if not isinstance(value, str):  # Such as a list of gin's, or of a checkpoint's metadata.
        object.__setattr__(self, name, tuple(value))
    for name in ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim'):
      if getattr(self, name) < 1:
        raise errors.UserError(f'T5Config.{name} must be positive, not {getattr(self, name)}')
    _check_choice('architecture', self.architecture, ARCHITECTURES)
    self._check_depth()
    _check_choice('position_scheme', self.position_scheme, POSITION_SCHEMES)
    self._check_positions()
    self._check_adapter()
    if not 0 <= self.dropout_rate < 1:
      raise errors.UserError(f'T5Config.dropout_rate={self.dropout_rate} is not in [0, 1)')
    buckets = self.relative_attention_num_buckets
    if buckets < 4 or buckets % 2:
      raise errors.UserError(
        f'T5Config.relative_attention_num_buckets={buckets} must be even and at least 4'
      )
    if self.relative_attention_max_distance <= buckets // 2:
      raise errors.UserError(
        f'T5Config.relative_attention_max_distance={self.relative_attention_max_distance} must '
        f'exceed half of relative_attention_num_buckets={buckets}'
      )
    self._check_remat()
    _check_choice('dtype', self.dtype, DTYPES)
    _check_choice('matmul_dtype', self.matmul_dtype, MATMUL_DTYPES)
    if not self.mlp_activations:
      raise errors.UserError(f'T5Config.mlp_activations is empty; give {", ".join(ACTIVATIONS)}')
    for activation in self.mlp_activations:
      _check_choice('mlp_activations', activation, ACTIVATIONS)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'T5Config':
    """Returns the configuration that `dataclasses.asdict` made these fields of."""
    return cls(**{**fields, 'adapter': _adapter(fields.get('adapter'))})

  def for_inference(self) -> 'T5Config':
    """Returns the configuration without what is for training alone."""
    return dataclasses.replace(
      self, dropout_rate=0.0, matmul_dtype=None, remat_policy='none', remat_offload=()
    )

  @property
  def prompt_length(self) -> int:
    """Positions that the encoder reads before the tokens."""
    return getattr(self.adapter, 'length', 0)

  @property
  def has_dropout(self) -> bool:
    """Whether anything is dropped in training."""
    return max(self.dropout_rate, getattr(self.adapter, 'dropout_rate', 0.0)) > 0

  @property
  def has_encoder(self) -> bool:
    """Whether the inputs have a stack of their own."""
    return self.architecture in ('encoder_decoder', 'shared_encoder_decoder')

  def check_length(self, length: int):
    """Raises UserError if a stack cannot place `length` positions."""
    if self.max_position_embeddings is not None and length > self.max_position_embeddings:
      raise errors.UserError(
        f'{length} positions are more than T5Config.max_position_embeddings='
        f'{self.max_position_embeddings}: give smaller TASK_FEATURE_LENGTHS, or train with more'
        + ('' if self.has_encoder else '; inputs and targets count together')
      )

  def _check_depth(self):
    encoder, decoder = self.num_encoder_layers, self.num_decoder_layers
    if decoder < 1:
      raise errors.UserError(f'T5Config.num_decoder_layers must be at least 1, not {decoder}')
    if self.has_encoder and encoder < 1:
      raise errors.UserError(f'T5Config.num_encoder_layers must be at least 1, not {encoder}')
    if not self.has_encoder and encoder:
      raise errors.UserError(
        f'T5Config.num_encoder_layers={encoder}, but architecture={self.architecture!r} has no '
        'encoder: set it to 0'
      )
    if self.architecture == 'shared_encoder_decoder' and encoder != decoder:
      raise errors.UserError(
        f'T5Config.num_encoder_layers={encoder} and num_decoder_layers={decoder} must be equal '
        f'where architecture={self.architecture!r}'
      )

  def _check_adapter(self):
    if self.prompt_length and not self.has_encoder:
      raise errors.UserError(
        f'T5Config.adapter={self.adapter!r} stands before the input of an encoder, but '
        f'architecture={self.architecture!r} has none'
      )

  def _check_remat(self):
    policy, offload = self.remat_policy, self.remat_offload
    if isinstance(policy, str) and policy not in ('none', *REMAT_POLICIES):
      raise errors.UserError(
        f'T5Config.remat_policy holds {policy!r}; it may be none, {", ".join(REMAT_POLICIES)}, or '
        f'a tuple of the names of what is kept, of {", ".join(REMAT_NAMES)}'
      )
    for field, names in (
      ('policy', () if isinstance(policy, str) else policy),
      ('offload', offload),
    ):
      for name in names:
        _check_choice(f'remat_{field}', name, REMAT_NAMES)
    if offload and policy == 'none':
      raise errors.UserError(
        f"T5Config.remat_offload={offload}, but remat_policy='none' keeps everything on the "
        "device: set remat_policy to 'full', 'minimal' or the names of what is kept there"
      )

  def _check_positions(self):
    learned = self.position_scheme == 'learned'
    if learned and (self.max_position_embeddings is None or self.max_position_embeddings < 1):
      raise errors.UserError(
        "T5Config.position_scheme='learned' needs max_position_embeddings, the most positions of "
        f'a stack; it is {self.max_position_embeddings}'
      )
    if not learned and self.max_position_embeddings is not None:
      raise errors.UserError(
        f'T5Config.max_position_embeddings={self.max_position_embeddings} is for '
        f"position_scheme='learned', but that is {self.position_scheme!r}"
      )
    if self.position_scheme == 'rotary' and self.head_dim % 2:
      raise errors.UserError(
        f"T5Config.position_scheme='rotary' turns pairs, but head_dim={self.head_dim} is odd"
      )
    if self.position_scheme == 'sinusoidal' and self.emb_dim % 2:
      raise errors.UserError(
        "T5Config.position_scheme='sinusoidal' needs pairs of a sine and a cosine, but "
        f'emb_dim={self.emb_dim} is odd'
      )


def _check_choice(name, value, choices):
  if value not in choices:
    raise errors.UserError(
      f'T5Config.{name} holds {value!r}; it may be {", ".join(map(str, choices))}'
    )


def _adapter(fields):
  """Returns the adapter that `dataclasses.asdict` made these fields of; None of None."""
  if fields is None:
    return None
  fields = dict(fields)
  kinds = {kind.__name__: kind for kind in (LoRA, IA3, Prompt)}
  return kinds[fields.pop('kind')](**fields)
