"""T5's encoder-decoder (Raffel et al. 2020): blocks, stacks, model."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite.models import attention, layers, positions, stacking
from t5x_lite.models.config import T5Config

RESIDUAL_AXES = ('batch', 'length', 'embed')


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward, each behind a norm and around a residual."""

  config: T5Config

  def setup(self):
    config = self.config
    self.pre_attention_layer_norm = layers.RMSNorm(config.dtype)
    self.attention = _attention(config)
    self.pre_mlp_layer_norm = layers.RMSNorm(config.dtype)
    self.mlp = _mlp(config)
    self.dropout = layers.Dropout(config.dropout_rate)

  def __call__(self, x, bias, mask):
    """Maps x [batch, length, embed]; returns (x, None), as the body of a scan must."""
    x = nn.with_logical_constraint(x, RESIDUAL_AXES)
    y = self.pre_attention_layer_norm(x)
    x = x + self.dropout(self.attention(y, y, bias=bias, mask=mask))
    x = x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))
    return nn.with_logical_constraint(x, RESIDUAL_AXES), None


@flax.struct.dataclass
class LayerCache:
  """What one decoder layer keeps while decoding.

  Attributes:
    self_attention: keys and values of the tokens so far, [batch, max_length, heads, head_dim].
    cross_attention: those of the encoder's output, [batch, inputs_length, heads, head_dim].
  """

  self_attention: attention.KeyValues
  cross_attention: attention.KeyValues


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the encoder, and feed-forward."""

  config: T5Config

  def setup(self):
    config = self.config
    self.pre_self_attention_layer_norm = layers.RMSNorm(config.dtype)
    self.self_attention = _attention(config)
    self.pre_cross_attention_layer_norm = layers.RMSNorm(config.dtype)
    self.encoder_decoder_attention = _attention(config)
    self.pre_mlp_layer_norm = layers.RMSNorm(config.dtype)
    self.mlp = _mlp(config)
    self.dropout = layers.Dropout(config.dropout_rate)

  def __call__(self, x, encoded, bias, mask, cross_mask):
    """Maps x [batch, length, embed]; returns (x, None), as the body of a scan must."""
    x = nn.with_logical_constraint(x, RESIDUAL_AXES)
    y = self.pre_self_attention_layer_norm(x)
    x = x + self.dropout(self.self_attention(y, y, bias=bias, mask=mask))
    keys_values = self.encoder_decoder_attention.project_keys_values(encoded)
    return self._cross_attention_and_mlp(x, keys_values, cross_mask), None

  def init_cache(self, encoded, max_length):
    """Returns the `LayerCache` before the first token."""
    config = self.config
    shape = (encoded.shape[0], max_length, config.num_heads, config.head_dim)
    empty = jnp.zeros(shape, config.dtype)
    return LayerCache(
      self_attention=attention.KeyValues(empty, empty),
      cross_attention=self.encoder_decoder_attention.project_keys_values(encoded),
    )

  def step(self, x, cache, index, bias, mask, cross_mask):
    """Maps x [batch, 1, embed], the token at `index`; returns (x, the cache with it)."""
    y, self_cache = self.self_attention.attend_cached(
      self.pre_self_attention_layer_norm(x), cache.self_attention, index, bias=bias, mask=mask
    )
    x = self._cross_attention_and_mlp(x + y, cache.cross_attention, cross_mask)
    return x, cache.replace(self_attention=self_cache)

  def _cross_attention_and_mlp(self, x, encoder_keys_values, cross_mask):
    y = self.pre_cross_attention_layer_norm(x)
    y = self.encoder_decoder_attention.attend(y, encoder_keys_values, mask=cross_mask)
    x = x + self.dropout(y)
    x = x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))
    return nn.with_logical_constraint(x, RESIDUAL_AXES)


class Encoder(nn.Module):
  """The encoder stack. Its blocks share one relative position bias."""

  config: T5Config

  def setup(self):
    config = self.config
    self.relpos_bias = _relative_bias(config, bidirectional=True)
    self.layers = _stack(EncoderLayer, config, config.num_encoder_layers)
    self.encoder_norm = layers.RMSNorm(config.dtype)
    self.input_dropout = layers.Dropout(config.dropout_rate)
    self.output_dropout = layers.Dropout(config.dropout_rate, broadcast_length=False)

  def __call__(self, x, mask):
    """Encodes embedded tokens x [batch, length, embed] under mask [batch, 1, length, length]."""
    bias = self.relpos_bias(x.shape[1], x.shape[1])
    x = _run(self.layers, self.input_dropout(x), bias, mask)
    return self.output_dropout(self.encoder_norm(x))


class Decoder(nn.Module):
  """The decoder stack, up to the hidden states, and the untied output matrix."""

  config: T5Config

  def setup(self):
    config = self.config
    self.relpos_bias = _relative_bias(config, bidirectional=False)
    self.layers = _stack(DecoderLayer, config, config.num_decoder_layers)
    self.decoder_norm = layers.RMSNorm(config.dtype)
    self.dropout = layers.Dropout(config.dropout_rate)
    if not config.logits_via_embedding:
      self.logits_dense = layers.OutputLogits(config.vocab_size, config.dtype)

  def __call__(self, x, encoded, mask, cross_mask):
    """Maps embedded tokens x [batch, length, embed] to hidden states of that shape."""
    bias = self.relpos_bias(x.shape[1], x.shape[1])
    x = _run(self.layers, self.dropout(x), encoded, bias, mask, cross_mask)
    return self.dropout(self.decoder_norm(x))

  def init_cache(self, encoded, max_length):
    """Returns one `LayerCache` a layer."""
    return [layer.init_cache(encoded, max_length) for layer in self.layers]

  def step(self, x, cache, index, cross_mask):
    """Maps the embedded token x [batch, 1, embed] at `index`; returns (hidden, new cache)."""
    max_length = cache[0].self_attention.key.shape[1]
    bias = self.relpos_bias.at(index, max_length)
    mask = (jnp.arange(max_length) <= index)[None, None, None, :]
    new_cache = []
    for layer, layer_cache in zip(self.layers, cache, strict=True):
      x, layer_cache = layer.step(x, layer_cache, index, bias, mask, cross_mask)
      new_cache.append(layer_cache)
    return self.decoder_norm(x), new_cache

  def logits(self, hidden):
    """Returns float32 logits [..., vocab] of the untied output matrix."""
    return self.logits_dense(hidden)


class T5(nn.Module):
  """The encoder-decoder model. Encoding, decoding and logits are separate methods."""

  config: T5Config

  def setup(self):
    config = self.config
    self.token_embedder = layers.Embed(config.vocab_size, config.emb_dim, config.dtype)
    self.encoder = Encoder(config)
    self.decoder = Decoder(config)

  def __call__(self, batch):
    """Returns float32 logits [batch, targets_length, vocab] of a batch of features.

    It is for initialisation and for looking at logits; training never holds them whole.
    """
    return self.logits(self.hidden(batch))

  def hidden(self, batch):
    """Returns the decoder's hidden states [batch, targets_length, embed] under teacher forcing.

    Args:
      batch: features by their seqio names, int32 [batch, length] each:
        `encoder_input_tokens`, `decoder_input_tokens`, `decoder_target_tokens` and, when
        packed, `encoder_segment_ids` and `decoder_segment_ids`. Positions within a segment are
        not needed: the bias depends on differences alone.
    """
    inputs = batch['encoder_input_tokens']
    targets = batch['decoder_target_tokens']
    input_segments = batch.get('encoder_segment_ids')
    target_segments = batch.get('decoder_segment_ids')
    encoded = self.encode(inputs, input_segments)

    mask = attention.padding_mask(targets > 0, targets > 0)
    mask &= attention.causal_mask(targets.shape[1])
    cross_mask = attention.padding_mask(targets > 0, inputs > 0)
    if target_segments is not None:
      mask &= attention.segment_mask(target_segments, target_segments)
      cross_mask &= attention.segment_mask(target_segments, input_segments)
    embedded = self.token_embedder(batch['decoder_input_tokens'])
    return self.decoder(embedded, encoded, mask, cross_mask)

  def encode(self, encoder_input_tokens, encoder_segment_ids=None):
    """Returns [batch, inputs_length, embed] of tokens [batch, inputs_length]; 0 is padding."""
    valid = encoder_input_tokens > 0
    mask = attention.padding_mask(valid, valid)
    if encoder_segment_ids is not None:
      mask &= attention.segment_mask(encoder_segment_ids, encoder_segment_ids)
    return self.encoder(self.token_embedder(encoder_input_tokens), mask)

  def logits(self, hidden):
    """Returns float32 logits [..., vocab] of the decoder's hidden states [..., embed]."""
    if self.config.logits_via_embedding:
      return self.token_embedder.attend(hidden)
    return self.decoder.logits(hidden)

  def init_cache(self, encoded, max_length):
    """Projects the encoder's output to keys and values, once, and makes room for tokens.

    Args:
      encoded: [batch, inputs_length, embed].
      max_length: the most tokens that will be decoded.

    Returns:
      A list of `LayerCache`, one a decoder layer.
    """
    return self.decoder.init_cache(encoded, max_length)

  def decode_step(self, tokens, cache, index, encoder_input_tokens):
    """Decodes one position.

    Args:
      tokens: int32 [batch], the decoder's input at position `index`.
      cache: from `init_cache` or the step before.
      index: int scalar, the position.
      encoder_input_tokens: [batch, inputs_length], for the padding mask.

    Returns:
      (float32 logits [batch, vocab] of the next token, the new cache).
    """
    query_valid = jnp.ones((tokens.shape[0], 1), bool)
    cross_mask = attention.padding_mask(query_valid, encoder_input_tokens > 0)
    embedded = self.token_embedder(tokens[:, None])
    hidden, cache = self.decoder.step(embedded, cache, index, cross_mask)
    return self.logits(hidden[:, 0]), cache


def for_decoding(config, params):
  """Returns (model, parameters) with the layers unrolled.

  Decoding appends to a cache per layer in place; a scan over layers would copy every cache at
  every step.
  """
  unrolled = dataclasses.replace(config, scan_layers=False, remat_policy='none')
  return T5(unrolled), stacking.unstack_layers(params)


def _stack(layer_class, config, num_layers):
  """Returns the scanned module or the list of modules that `_run` runs."""
  if config.remat_policy != 'none':
    # 'minimal' keeps what is dear to recompute: the products with weights, not the attention.
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    layer_class = nn.remat(
      layer_class,
      policy=policy if config.remat_policy == 'minimal' else None,
      prevent_cse=not config.scan_layers,
    )
  if not config.scan_layers:
    return [layer_class(config) for _ in range(num_layers)]
  scanned = nn.scan(
    layer_class,
    variable_axes={'params': 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=nn.broadcast,
    length=num_layers,
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )
  return scanned(config)


def _run(stack, x, *shared):
  """Passes x through the stack; every layer gets the same `shared` arguments."""
  if isinstance(stack, nn.Module):
    x, _ = stack(x, *shared)
    return x
  for layer in stack:
    x, _ = layer(x, *shared)
  return x


def _attention(config):
  return attention.MultiHeadAttention(
    num_heads=config.num_heads,
    head_dim=config.head_dim,
    emb_dim=config.emb_dim,
    dropout_rate=config.dropout_rate,
    dtype=config.dtype,
  )


def _mlp(config):
  return layers.MLP(config.mlp_dim, config.mlp_activations, config.dropout_rate, config.dtype)


def _relative_bias(config, bidirectional):
  return positions.RelativePositionBias(
    num_heads=config.num_heads,
    num_buckets=config.relative_attention_num_buckets,
    max_distance=config.relative_attention_max_distance,
    bidirectional=bidirectional,
  )
