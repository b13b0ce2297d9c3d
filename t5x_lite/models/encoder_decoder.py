"""T5's encoder-decoder (Raffel et al. 2020, section 2.1), its two stacks apart or shared."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from t5x_lite.models import adapters, attention, decoder, layers, positions, stacking
from t5x_lite.models import beams as beams_lib
from t5x_lite.models.config import START_ID, T5Config


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward, each behind a norm and around a residual."""

  config: T5Config

  def setup(self):
    config = self.config
    self.pre_attention_layer_norm = layers.RMSNorm(config.dtype)
    self.attention = attention.of(config)
    self.pre_mlp_layer_norm = layers.RMSNorm(config.dtype)
    self.mlp = layers.mlp_of(config)
    self.dropout = layers.Dropout(config.dropout_rate)
    self.relpos_bias = positions.relative_bias(config, bidirectional=True)

  def __call__(self, x, placement, mask):
    """Maps x [batch, length, embed]; returns (x, None), as the body of a scan must."""
    x = nn.with_logical_constraint(x, decoder.RESIDUAL_AXES)
    x = ad_checkpoint.checkpoint_name(x, 'layer_input')
    y = self.pre_attention_layer_norm(x)
    bias = placement.bias
    if self.config.position_scheme == 'relative_bias_per_layer':
      bias = self.relpos_bias.of(x)
    keys_values = self.attention.project_keys_values(y, placement.rotation)
    y = self.attention.attend(y, keys_values, bias=bias, mask=mask, rotation=placement.rotation)
    x = x + self.dropout(y)
    x = x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))
    return nn.with_logical_constraint(x, decoder.RESIDUAL_AXES), None


class Encoder(nn.Module):
  """The encoder stack."""

  config: T5Config

  def setup(self):
    config = self.config
    self.positions = positions.StackPositions(config, bidirectional=True)
    nn.share_scope(self, self.positions)
    if config.architecture == 'encoder_decoder':
      self.layers = stacking.build(EncoderLayer, config, config.num_encoder_layers)
    self.encoder_norm = layers.RMSNorm(config.dtype)
    self.input_dropout = layers.Dropout(config.dropout_rate)
    self.output_dropout = layers.Dropout(config.dropout_rate, broadcast_length=False)

  def __call__(self, x, position, mask, shared_layers=None):
    """Encodes a batch.

    Args:
      x: embedded tokens [batch, length, embed].
      position: int [batch, length], in each example; None for 0, 1, ...
      mask: True where attention is allowed, [batch, 1, length, length].
      shared_layers: the decoder's layers, where the encoder has none of its own.
    """
    x, placement = self.positions(x, position)
    stack = self.layers if shared_layers is None else shared_layers
    x = stacking.run(stack, self.input_dropout(x), placement, mask)
    return self.output_dropout(self.encoder_norm(x))


@flax.struct.dataclass
class Cache:
  """What decoding keeps.

  Attributes:
    layers: a `decoder.LayerCache` each.
    inputs_valid: [batch, inputs_length], which inputs are no padding; with those of a soft prompt.
    ancestors: see `models.beams`.
  """

  layers: list[decoder.LayerCache]
  inputs_valid: jax.Array
  ancestors: jax.Array | None


class T5(nn.Module):
  """The encoder-decoder model. Encoding, decoding and logits are separate methods."""

  config: T5Config

  def setup(self):
    config = self.config
    self.token_embedder = layers.Embed(config.vocab_size, config.emb_dim, config.dtype)
    self.encoder = Encoder(config)
    self.decoder = decoder.Decoder(config)
    if config.prompt_length:
      self.prompt = adapters.SoftPrompt(config.adapter)

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
        packed, `encoder_segment_ids`, `encoder_positions`, `decoder_segment_ids` and
        `decoder_positions`.
    """
    inputs = batch['encoder_input_tokens']
    targets = batch['decoder_target_tokens']
    input_segments = batch.get('encoder_segment_ids')
    target_segments = batch.get('decoder_segment_ids')
    encoded = self.encode(inputs, input_segments, batch.get('encoder_positions'))

    mask = attention.padding_mask(targets > 0, targets > 0)
    mask &= attention.causal_mask(targets.shape[1])
    cross_mask = attention.padding_mask(targets > 0, self._encoded_valid(inputs))
    if target_segments is not None:
      mask &= attention.segment_mask(target_segments, target_segments)
      cross_mask &= attention.segment_mask(target_segments, input_segments)
    embedded = self.token_embedder(batch['decoder_input_tokens'])
    return self.decoder(embedded, batch.get('decoder_positions'), mask, encoded, cross_mask)

  def encode(self, encoder_input_tokens, encoder_segment_ids=None, encoder_positions=None):
    """Encodes tokens [batch, inputs_length]; 0 is padding.

    Returns:
      [batch, inputs_length, embed], with a soft prompt [batch, prompt + inputs_length, embed].
    """
    adapters.check_packing(self.config.adapter, encoder_segment_ids is not None)
    valid = self._encoded_valid(encoder_input_tokens)
    mask = attention.padding_mask(valid, valid)
    if encoder_segment_ids is not None:
      mask &= attention.segment_mask(encoder_segment_ids, encoder_segment_ids)
    embedded = self.token_embedder(encoder_input_tokens)
    if self.config.prompt_length:
      embedded = self.prompt(embedded)
    shared = self.config.architecture == 'shared_encoder_decoder'
    return self.encoder(embedded, encoder_positions, mask, self.decoder.layers if shared else None)

  def _encoded_valid(self, encoder_input_tokens):
    """Returns bool [batch, encoded length]: where the encoder reads a token or a prompt."""
    prompt = ((0, 0), (self.config.prompt_length, 0))
    return jnp.pad(encoder_input_tokens > 0, prompt, constant_values=True)

  def logits(self, hidden):
    """Returns float32 logits [..., vocab] of the decoder's hidden states [..., embed]."""
    return self.decoder.logits(hidden, self.token_embedder)

  def start(self, inputs, max_length, samples=1, beams=1):
    """Encodes the inputs, projects them to keys and values, once, and makes room for tokens.

    Args:
      inputs: int32 [batch, inputs_length]; 0 is padding.
      max_length: the most tokens that will be decoded.
      samples: answers to each input that go on by themselves, each in a row of its own.
      beams: answers in a row that may go on from each other.

    Returns:
      (int32 [batch * samples, beams], the tokens to decode from; the `Cache`).
    """
    caches = self.decoder.init_cache(self.encode(inputs), max_length, samples, beams)
    start = jnp.full((inputs.shape[0] * samples, beams), START_ID, jnp.int32)
    ancestors = beams_lib.first_ancestors(*start.shape, max_length)
    return start, Cache(caches, self._encoded_valid(inputs), ancestors)

  def decode_step(self, tokens, cache, index):
    """Decodes one position.

    Args:
      tokens: int32 [rows, beams], from `start`, or decoded in the step before.
      cache: from `start` or the step before.
      index: int scalar, the number of steps before.

    Returns:
      (float32 logits [rows, beams, vocab] of the next tokens, the new cache).
    """
    visible = jnp.arange(decoder.num_slots_of(cache.layers, tokens.shape[1])) <= index
    ancestors = beams_lib.with_own_slot(cache.ancestors, index)
    hidden, caches = self.decoder.step(
      self.token_embedder(tokens),
      cache.layers,
      index,
      jnp.full((1, 1), index),
      beams_lib.mask(visible[None], ancestors),
      cache.inputs_valid[:, None, None, :],
    )
    return self.logits(hidden), cache.replace(layers=caches, ancestors=ancestors)
