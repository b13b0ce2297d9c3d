"""The decoder stack: of an encoder-decoder, or alone as a language model."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite.models import attention, layers, positions, stacking
from t5x_lite.models.config import T5Config

RESIDUAL_AXES = ('batch', 'length', 'embed')


@flax.struct.dataclass
class LayerCache:
  """What one decoder layer keeps while decoding.

  Attributes:
    self_attention: keys and values of the tokens so far, [batch, num_slots, heads, head_dim].
    cross_attention: those of the encoder's output, [batch, inputs_length, heads, head_dim]; None
      where there is no encoder.
  """

  self_attention: attention.KeyValues
  cross_attention: attention.KeyValues | None


class DecoderLayer(nn.Module):
  """Self-attention, attention to the encoder if there is one, and feed-forward."""

  config: T5Config

  def setup(self):
    config = self.config
    self.pre_self_attention_layer_norm = layers.RMSNorm(config.dtype)
    self.self_attention = attention.of(config)
    self.pre_cross_attention_layer_norm = layers.RMSNorm(config.dtype)
    self.encoder_decoder_attention = attention.of(config)
    self.pre_mlp_layer_norm = layers.RMSNorm(config.dtype)
    self.mlp = layers.mlp_of(config)
    self.dropout = layers.Dropout(config.dropout_rate)
    self.relpos_bias = positions.relative_bias(config, decoder_is_bidirectional(config))
    # A shared layer is run by the encoder too, where distances have other buckets.
    self.encoder_relpos_bias = positions.relative_bias(config, bidirectional=True)

  def __call__(self, x, placement, mask, encoded=None, cross_mask=None):
    """Runs the layer over a whole sequence.

    Args:
      x: [batch, length, embed].
      placement: `positions.Placement`.
      mask: True where self-attention is allowed, [batch, 1, length, length].
      encoded: [batch, inputs_length, embed]; None leaves cross-attention out, as a language model
        does, and the encoder that shares this layer.
      cross_mask: [batch, 1, length, inputs_length], or None.

    Returns:
      (x, None), as the body of a scan must.
    """
    x = nn.with_logical_constraint(x, RESIDUAL_AXES)
    x, _ = self._attend_to_itself(x, placement, mask, encoding=encoded is None)
    keys_values = None
    if encoded is not None:
      keys_values = self.encoder_decoder_attention.project_keys_values(encoded)
    return self._cross_attention_and_mlp(x, keys_values, cross_mask), None

  def init_cache(self, encoded, num_slots):
    """Returns the `LayerCache` before the first token, for the encoder's output `encoded`."""
    config = self.config
    shape = (encoded.shape[0], num_slots, config.num_heads, config.head_dim)
    empty = jnp.zeros(shape, config.dtype)
    return LayerCache(
      self_attention=attention.KeyValues(empty, empty),
      cross_attention=self.encoder_decoder_attention.project_keys_values(encoded),
    )

  def prefill(self, x, placement, mask, num_slots):
    """Maps x [batch, length, embed] as `__call__`; returns (x, the `LayerCache` with its tokens)."""
    x, keys_values = self._attend_to_itself(x, placement, mask)
    room = ((0, 0), (0, num_slots - x.shape[1]), (0, 0), (0, 0))
    filled = jax.tree.map(lambda cached: jnp.pad(cached, room), keys_values)
    return self._cross_attention_and_mlp(x, None, None), LayerCache(filled, None)

  def step(self, x, cache, placement, mask, cross_mask):
    """Maps x [batch, 1, embed], the token in `placement.slot`; returns (x, the cache with it)."""
    y, self_cache = self.self_attention.attend_cached(
      self.pre_self_attention_layer_norm(x),
      cache.self_attention,
      placement.slot,
      bias=self._bias(x, placement),
      mask=mask,
      rotation=placement.rotation,
    )
    x = self._cross_attention_and_mlp(x + y, cache.cross_attention, cross_mask)
    return x, cache.replace(self_attention=self_cache)

  def _attend_to_itself(self, x, placement, mask, encoding=False):
    """Returns (x after self-attention, the `KeyValues` of all positions)."""
    y = self.pre_self_attention_layer_norm(x)
    keys_values = self.self_attention.project_keys_values(y, placement.rotation)
    y = self.self_attention.attend(
      y,
      keys_values,
      bias=self._bias(x, placement, encoding),
      mask=mask,
      rotation=placement.rotation,
    )
    return x + self.dropout(y), keys_values

  def _bias(self, x, placement, encoding=False):
    """The bias of self-attention: the stack's, this layer's own, or None."""
    if self.config.position_scheme != 'relative_bias_per_layer':
      return placement.bias
    shared = encoding and self.config.has_encoder
    table = self.encoder_relpos_bias if shared else self.relpos_bias
    return table.of(x, placement.slot, placement.num_slots)

  def _cross_attention_and_mlp(self, x, encoder_keys_values, cross_mask):
    if encoder_keys_values is not None:
      y = self.pre_cross_attention_layer_norm(x)
      y = self.encoder_decoder_attention.attend(y, encoder_keys_values, mask=cross_mask)
      x = x + self.dropout(y)
    x = x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))
    return nn.with_logical_constraint(x, RESIDUAL_AXES)


class Decoder(nn.Module):
  """The decoder stack, up to the hidden states, and the untied output matrix."""

  config: T5Config

  def setup(self):
    config = self.config
    self.positions = positions.StackPositions(config, decoder_is_bidirectional(config))
    nn.share_scope(self, self.positions)
    self.layers = stacking.build(DecoderLayer, config, config.num_decoder_layers)
    self.decoder_norm = layers.RMSNorm(config.dtype)
    self.dropout = layers.Dropout(config.dropout_rate)
    if not config.logits_via_embedding:
      self.logits_dense = layers.OutputLogits(config.vocab_size, config.dtype)

  def __call__(self, x, position, mask, encoded=None, cross_mask=None):
    """Maps embedded tokens x [batch, length, embed] to hidden states of that shape.

    Args:
      x: embedded tokens.
      position: int [batch, length], in each example; None for 0, 1, ...
      mask: see `DecoderLayer`.
      encoded: likewise.
      cross_mask: likewise.
    """
    x, placement = self.positions(x, position)
    x = stacking.run(self.layers, self.dropout(x), placement, mask, encoded, cross_mask)
    return self.dropout(self.decoder_norm(x))

  def init_cache(self, encoded, num_slots):
    """Returns one `LayerCache` a layer."""
    return [layer.init_cache(encoded, num_slots) for layer in self.layers]

  def prefill(self, x, position, mask, num_slots):
    """Runs embedded tokens x [batch, length, embed]; returns one `LayerCache` a layer."""
    x, placement = self.positions(x, position)
    caches = []
    for layer in self.layers:
      x, cache = layer.prefill(x, placement, mask, num_slots)
      caches.append(cache)
    return caches

  def step(self, x, caches, slot, position, mask, cross_mask=None):
    """Maps one embedded token of each row.

    Args:
      x: [batch, 1, embed].
      caches: from `init_cache`, `prefill` or the step before.
      slot: int scalar, where in the caches the token goes.
      position: int [batch or 1, 1], of the token in its example.
      mask: True for the slots that it sees, broadcastable to [batch, 1, 1, num_slots].
      cross_mask: [batch, 1, 1, inputs_length], or None.

    Returns:
      (hidden state [batch, 1, embed], the new caches).
    """
    num_slots = caches[0].self_attention.key.shape[1]
    x, placement = self.positions(x, position, slot=slot, num_slots=num_slots)
    new_caches = []
    for layer, cache in zip(self.layers, caches, strict=True):
      x, cache = layer.step(x, cache, placement, mask, cross_mask)
      new_caches.append(cache)
    return self.decoder_norm(x), new_caches

  def logits(self, hidden, token_embedder):
    """Returns float32 logits [..., vocab] of hidden states [..., embed]."""
    if self.config.logits_via_embedding:
      return token_embedder.attend(hidden)
    return self.logits_dense(hidden)


def decoder_is_bidirectional(config):
  """Whether some tokens of the decoder see later ones, so that both directions need buckets."""
  return config.architecture == 'prefix_language_model'
