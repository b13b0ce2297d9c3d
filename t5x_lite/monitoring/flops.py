"""Floating-point operations of a T5, counted from its shapes.

XLA's cost analysis counts the body of a scan once, whatever the number of layers, so MFU cannot
rest on it. Counted here are the matrix products, two operations for each multiply and add:
projections, attention over all positions (the mask saves nothing), feed-forward layers and logits.
Recomputation (remat) is not counted: it is no useful work. Nor are LoRA's own products, which are
few. A soft prompt is so many more positions of the encoder.
"""

import dataclasses
import math
import re

# Dense bfloat16 TFLOP/s as published by the makers, for one JAX device, whose `device_kind` the
# pattern is found in; the first that fits counts. A TPU v2 or v3 chip is two devices.
_PEAK_TFLOPS = (
  ('tpu v2', 22.5),
  ('tpu v3', 61.5),
  ('tpu v4', 275),
  ('tpu v5 ?lite|tpu v5e', 197),
  ('tpu v5p?', 459),
  ('tpu v6 ?lite|tpu v6e', 918),
  ('a100', 312),
  ('h100 pcie', 756),
  ('h100 nvl', 835),
  ('h100', 989),
  ('h200 nvl', 835),
  ('h200', 989),
  ('b200', 2250),
  ('l4', 121),
  ('l40s', 362),
  ('l40', 181),
  ('a10g', 70),
  ('a10', 125),
  ('a30', 165),
  ('a40', 150),
)


def peak_flops(device_kind: str, dtype: str = 'bfloat16') -> float | None:
  """Peak FLOP/s of matrix products on one device.

  At JAX's default precision, float32 operands are rounded to bfloat16 on a TPU and to TF32, half as
  fast as bfloat16, on an NVIDIA GPU.

  Args:
    device_kind: as in `jax.devices()[0].device_kind`.
    dtype: of the operands: 'bfloat16', 'float16' or 'float32'.

  Returns:
    FLOP/s, or None for a device whose peak is not known here, such as a CPU.
  """
  kind = device_kind.lower()
  for pattern, teraflops in _PEAK_TFLOPS:
    if re.search(rf'\b({pattern})\b', kind):
      halved = dtype == 'float32' and 'tpu' not in kind
      return teraflops * 1e12 / (2 if halved else 1)
  return None


def train_step_flops(
  config, batch_size: int, inputs_length: int, targets_length: int, trained_share: float = 1.0
) -> float:
  """FLOPs of one training step.

  The backward pass takes twice the products of the forward pass: one for the gradient of the
  activations, one for that of the weights, or of the other activations in attention. Frozen weights
  need no gradient of their own.

  Args:
    config: a T5Config.
    batch_size: examples in a step.
    inputs_length: tokens of the inputs, padding counted; 0 where there are targets alone.
    targets_length: tokens of the targets, padding counted.
    trained_share: of the parameters; it is taken for that of the products with weights.
  """
  attention = _all_attention(config, batch_size, inputs_length, targets_length)
  weights = forward_flops(config, batch_size, inputs_length, targets_length) - attention
  return 3 * attention + (2 + trained_share) * weights


def forward_flops(config, batch_size: int, inputs_length: int, targets_length: int) -> float:
  """FLOPs of encoding the inputs and scoring the targets; see `train_step_flops`.

  A model without an encoder passes inputs and targets through its decoder, logits and all.
  """
  if not config.has_encoder:
    length = inputs_length + targets_length
    return batch_size * length * (_decoder_layers(config, length) + _logits(config))
  encoded = inputs_length + config.prompt_length
  decoded = (
    batch_size
    * targets_length
    * (_decoder_layers(config, targets_length, encoded) + _logits(config))
  )
  return encode_flops(config, batch_size, inputs_length) + decoded


def _all_attention(config, batch_size: int, inputs_length: int, targets_length: int) -> float:
  """Those of `forward_flops` in which no weights take part."""
  if not config.has_encoder:
    length = inputs_length + targets_length
    return batch_size * length * config.num_decoder_layers * _attention(config, length)
  encoded = inputs_length + config.prompt_length
  decoder = _attention(config, targets_length) + _attention(config, encoded)
  return batch_size * (
    config.num_encoder_layers * encoded * _attention(config, encoded)
    + config.num_decoder_layers * targets_length * decoder
  )


def encode_flops(config, batch_size: int, inputs_length: int) -> float:
  """FLOPs of reading the inputs, before a token is decoded.

  With an encoder they are its own, and those of the decoder's cross-attention keys and values, made
  once. Without one they are those of the decoder's layers, for the start token too.
  """
  if not config.has_encoder:
    length = inputs_length + 1
    return batch_size * length * _decoder_layers(config, length)
  encoded = inputs_length + config.prompt_length
  tokens = batch_size * encoded
  encoder = config.num_encoder_layers * (
    _projections(config, 4) + _attention(config, encoded) + _mlp(config)
  )
  return tokens * (encoder + config.num_decoder_layers * _projections(config, 2))


@dataclasses.dataclass(frozen=True)
class DecodeCost:
  """What decoding costs: the inputs once, then each step.

  Attributes:
    encode_flops: FLOPs before the first step.
    step_flops: FLOPs of one step, in which each sequence gains one token.
    step_bytes: bytes that a step has to move: the decoder's weights and the caches, read once.
    steps: number of steps.
  """

  encode_flops: float
  step_flops: float
  step_bytes: float
  steps: int

  @property
  def flops(self) -> float:
    """FLOPs of everything."""
    return self.encode_flops + self.steps * self.step_flops


def decode_cost(
  config,
  batch_size: int,
  inputs_length: int,
  steps: int,
  *,
  width: int = 1,
  weight_bytes: int = 4,
) -> DecodeCost:
  """Cost of decoding `steps` tokens with a key/value cache that has room for all of them.

  The cache has a fixed size, so every step attends to all of it.

  Args:
    config: a T5Config; its dtype is the cache's.
    batch_size: examples decoded together.
    inputs_length: tokens of an encoder input, padding counted.
    steps: tokens to decode.
    width: answers to each example, such as beams, which share what is cached of the encoder's output.
    weight_bytes: size of a weight where it is read from memory; 4 for float32.
  """
  joined = config.num_heads * config.head_dim
  encoded = inputs_length + config.prompt_length
  if config.has_encoder:
    layers = _decoder_layers(config, steps, encoded)
  else:
    layers = _decoder_layers(config, encoded + steps)
  # Two operations a weight and token; attention has no weights.
  attention = config.num_decoder_layers * _attention(config, encoded + steps)
  weights = (layers - attention + _logits(config)) / 2
  own = steps if config.has_encoder else steps + encoded
  cached_tokens = batch_size * (width * own + (encoded if config.has_encoder else 0))
  cached = 2 * config.num_decoder_layers * cached_tokens * joined
  cache_bytes = {'float32': 4, 'bfloat16': 2, 'float16': 2}[str(config.dtype)]
  return DecodeCost(
    encode_flops=encode_flops(config, batch_size, inputs_length),
    step_flops=batch_size * width * (layers + _logits(config)),
    step_bytes=weights * weight_bytes + cached * cache_bytes,
    steps=steps,
  )


def mfu(
  flops_per_step: float, steps_per_second: float, total_peak_flops: float | None
) -> float | None:
  """Model FLOPs utilization (Chowdhery et al. 2022, appendix B), as a share of the peak.

  Args:
    flops_per_step: of the global batch.
    steps_per_second: measured.
    total_peak_flops: sum over all devices; None where unknown.
  """
  if not total_peak_flops or not math.isfinite(total_peak_flops):
    return None
  return flops_per_step * steps_per_second / total_peak_flops


# FLOPs of one token.


def _decoder_layers(config, length: int, inputs_length: int | None = None) -> float:
  """All decoder layers: attention to `length` positions and, with an encoder, to the inputs."""
  layer = _projections(config, 4) + _attention(config, length) + _mlp(config)
  if inputs_length is not None:
    # Query and output; keys and values are the encoder's.
    layer += _projections(config, 2) + _attention(config, inputs_length)
  return config.num_decoder_layers * layer


def _projections(config, count: int) -> float:
  """Products with `count` matrices [emb_dim, num_heads * head_dim], or their transposes."""
  return 2 * count * config.emb_dim * config.num_heads * config.head_dim


def _attention(config, key_length: int) -> float:
  """The logits over the keys and the mean of the values."""
  return 2 * 2 * key_length * config.num_heads * config.head_dim


def _mlp(config) -> float:
  """One matrix in for each activation (two are multiplied in a gated layer), one matrix out."""
  return 2 * (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim


def _logits(config) -> float:
  return 2 * config.emb_dim * config.vocab_size
