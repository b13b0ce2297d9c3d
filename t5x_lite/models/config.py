"""The shape and numerics of one T5 model."""

import dataclasses
from collections.abc import Sequence

from t5x_lite import errors

ACTIVATIONS = ('gelu', 'linear', 'relu', 'silu')
REMAT_POLICIES = ('none', 'minimal', 'full')
DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Hyperparameters of the encoder-decoder of Raffel et al. 2020, sections 2.1 and 3.2.

  T5 1.0 has `mlp_activations=('relu',)` and `logits_via_embedding=True`; T5 1.1 has
  `('gelu', 'linear')`, the gated GELU of Shazeer 2020, and a separate output matrix.

  Attributes:
    vocab_size: rows of the embedding; the vocabulary's size rounded up (32100 -> 32128).
    emb_dim: width of the residual stream, d_model in the paper.
    num_heads: attention heads.
    head_dim: width of one head, d_kv; num_heads * head_dim need not equal emb_dim.
    mlp_dim: width of the feed-forward layer, d_ff.
    num_encoder_layers: blocks of the encoder.
    num_decoder_layers: blocks of the decoder.
    mlp_activations: one activation for a plain feed-forward layer; several for a gated one,
      whose outputs are multiplied.
    logits_via_embedding: the output matrix is the embedding, scaled by emb_dim**-0.5.
    dropout_rate: applied only where a 'dropout' random key is given.
    dtype: of the activations; parameters, softmax and loss are float32.
    scan_layers: compile one block and loop over stacked parameters, instead of unrolling.
    remat_policy: what the backward pass recomputes: 'none'; 'minimal', everything but the
      outputs of matrix multiplications with weights; 'full', everything inside a block.
    relative_attention_num_buckets: rows of a relative position table.
    relative_attention_max_distance: distance from which all positions share the last bucket.
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
  scan_layers: bool = True
  remat_policy: str = 'none'
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128

  def __post_init__(self):
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
    for name in ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim'):
      if getattr(self, name) < 1:
        raise errors.UserError(f'T5Config.{name} must be positive, not {getattr(self, name)}')
    for name in ('num_encoder_layers', 'num_decoder_layers'):
      if getattr(self, name) < 1:
        raise errors.UserError(f'T5Config.{name} must be at least 1, not {getattr(self, name)}')
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
    _check_choice('remat_policy', self.remat_policy, REMAT_POLICIES)
    _check_choice('dtype', self.dtype, DTYPES)
    if not self.mlp_activations:
      raise errors.UserError(f'T5Config.mlp_activations is empty; give {", ".join(ACTIVATIONS)}')
    for activation in self.mlp_activations:
      _check_choice('mlp_activations', activation, ACTIVATIONS)


def _check_choice(name, value, choices):
  if value not in choices:
    raise errors.UserError(f'T5Config.{name} holds {value!r}; it may be {", ".join(choices)}')
