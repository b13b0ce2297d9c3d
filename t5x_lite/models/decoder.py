"""The decoder stack: of an encoder-decoder, or alone as a language model."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from t5x_lite.models import attention, layers, positions, stacking
from t5x_lite.models.config import T5Config

RESIDUAL_AXES = ('batch', 'length', 'embed')


@flax.struct.dataclass
class LayerCache:
  """What one decoder layer keeps while decoding.

  Attributes:
    self_attention: of the tokens so far; a row for each answer that goes on by itself, or for
      several of beam search, its beams.
    cross_attention: of the encoder's output, a row for each input, which its answers share; None
      where there is no encoder.
  """

  self_attention: attention.CachedKeyValues
  cross_attention: attention.CachedKeyValues | None


def num_slots_of(caches, beams):
  """Returns for how many tokens of each beam the caches, a `LayerCache` each, have room."""
  return caches[0].self_attention.key.shape[-1] // beams


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
    x = ad_checkpoint.checkpoint_name(x, 'layer_input')
    x, _ = self._attend_to_itself(x, placement, mask, encoding=encoded is None)
    if encoded is not None:
      y = self.pre_cross_attention_layer_norm(x)
      x += self.dropout(self.encoder_decoder_attention(y, encoded, mask=cross_mask))
    return nn.with_logical_constraint(x + self._mlp(x), RESIDUAL_AXES), None

  def init_cache(self, encoded, num_slots, samples, beams):
    """Returns the `LayerCache` before the first token, see `Decoder.init_cache`."""
    config = self.config
    shape = (encoded.shape[0] * samples, num_slots * beams, config.num_heads, config.head_dim)
    empty = jnp.zeros(shape, config.dtype)
    return LayerCache(
      self_attention=attention.CachedKeyValues.of(attention.KeyValues(empty, empty)),
      cross_attention=attention.CachedKeyValues.of(
        self.encoder_decoder_attention.project_keys_values(encoded)
      ),
    )

  def prefill(self, x, placement, mask, num_slots, beams):
    """Maps x [batch, length, embed] as `__call__`; returns (x, the `LayerCache` with its tokens)."""
    x, keys_values = self._attend_to_itself(x, placement, mask)
    filled = jax.tree.map(lambda each: _of_first_beam(each, num_slots, beams), keys_values)
    cache = LayerCache(attention.CachedKeyValues.of(filled), None)
    return x + self._mlp(x), cache

  def step(self, x, cache, placement, mask, cross_mask):
    """Maps x [rows, beams, embed], the tokens in `placement.slot`; returns (x, the cache with them)."""
    y = self.pre_self_attention_layer_norm(x)
    token = self.self_attention.project_keys_values(y, placement.rotation)
    own = cache.self_attention.with_token(token, placement.slot)
    x += self.self_attention.attend_cached(
      y, own, bias=self._bias(x, placement), mask=mask, rotation=placement.rotation
    )
    if cache.cross_attention is not None:
      y = self.pre_cross_attention_layer_norm(x)
      # Answers to the same input are queries of the same keys: [batch, samples * beams, embed].
      queries = y.reshape(cross_mask.shape[0], -1, y.shape[-1])
      y = self.encoder_decoder_attention.attend_cached(
        queries, cache.cross_attention, mask=cross_mask
      )
      x += y.reshape(x.shape)
    return x + self._mlp(x), cache.replace(self_attention=own)

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

  def _mlp(self, x):
    return self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))


def _of_first_beam(x, num_slots, beams):
  """[batch, length, heads, head_dim] as [batch, num_slots * beams, ...], in the first beam's slots."""
  batch_size, length, *features = x.shape
  room = ((0, 0), (0, num_slots - length), (0, beams - 1), (0, 0), (0, 0))
  return jnp.pad(x[:, :, None], room).reshape(batch_size, num_slots * beams, *features)


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

  def init_cache(self, encoded, num_slots, samples, beams):
    """Returns one `LayerCache` a layer, before the first token.

    Args:
      encoded: [batch, inputs_length, embed].
      num_slots: the most tokens that will be decoded.
      samples: answers to each input that go on by themselves, each in a row of its own.
      beams: answers in a row that may go on from each other.
    """
    return [layer.init_cache(encoded, num_slots, samples, beams) for layer in self.layers]

  def prefill(self, x, position, mask, num_slots, beams):
    """Runs embedded tokens x [batch, length, embed], which all beams go on from.

    Returns:
      One `LayerCache` a layer.
    """
    x, placement = self.positions(x, position)
    caches = []
    for layer in self.layers:
      x, cache = layer.prefill(x, placement, mask, num_slots, beams)
      caches.append(cache)
    return caches

  def step(self, x, caches, slot, position, mask, cross_mask=None):
    """Maps one embedded token of each beam.

    Args:
      x: [rows, beams, embed].
      caches: from `init_cache`, `prefill` or the step before.
      slot: int scalar, where in the caches the tokens go.
      position: int [rows or 1, 1], of the tokens in their example.
      mask: see `MultiHeadAttention.attend_cached`; it hides the slots after `slot`.
      cross_mask: [batch, 1, 1, inputs_length], or None.

    Returns:
      (hidden state [rows, beams, embed], the new caches).
    """
    num_slots = num_slots_of(caches, x.shape[1])
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
