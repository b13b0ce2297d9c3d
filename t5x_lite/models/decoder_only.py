"""Language models: T5's decoder without an encoder (Raffel et al. 2020, section 3.2.1).

Inputs and targets follow each other in one sequence. A language model attends to what came before;
a prefix language model also sees all of its inputs from each of them.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from t5x_lite.models import attention, decoder, layers
from t5x_lite.models import beams as beams_lib
from t5x_lite.models.config import START_ID, T5Config


@flax.struct.dataclass
class Cache:
  """What decoding keeps.

  The inputs of all rows end in the same slot, so that the next token goes into the same slot in
  each, and the distance of two slots is that of their positions.

  Attributes:
    layers: a `decoder.LayerCache` each.
    first_slot: int32 [rows], the slot of a row's start token.
    ancestors: see `models.beams`.
    inputs_length: slots before that of the last input.
  """

  layers: list[decoder.LayerCache]
  first_slot: jax.Array
  ancestors: jax.Array | None
  inputs_length: int = flax.struct.field(pytree_node=False)


class LanguageModel(nn.Module):
  """The decoder-only model, with the methods of `encoder_decoder.T5`."""

  config: T5Config

  def setup(self):
    config = self.config
    self.token_embedder = layers.Embed(config.vocab_size, config.emb_dim, config.dtype)
    self.decoder = decoder.Decoder(config)

  def __call__(self, batch):
    """Returns float32 logits [batch, length, vocab]; training never holds them whole."""
    return self.logits(self.hidden(batch))

  def hidden(self, batch):
    """Returns the hidden states [batch, length, embed] under teacher forcing.

    Args:
      batch: features by their seqio names, int32 [batch, length] each: `decoder_input_tokens`,
        `decoder_target_tokens`; where there are inputs, `decoder_causal_attention`, which is 1 up
        to the position that reads the last of them; and, when packed, `decoder_segment_ids` and
        `decoder_positions`.
    """
    targets = batch['decoder_target_tokens']
    segments = batch.get('decoder_segment_ids')
    mask = self._sees(targets.shape[1], batch.get('decoder_causal_attention'))
    mask &= attention.padding_mask(targets > 0, targets > 0)
    if segments is not None:
      mask &= attention.segment_mask(segments, segments)
    embedded = self.token_embedder(batch['decoder_input_tokens'])
    return self.decoder(embedded, batch.get('decoder_positions'), mask)

  def logits(self, hidden):
    """Returns float32 logits [..., vocab] of hidden states [..., embed]."""
    return self.decoder.logits(hidden, self.token_embedder)

  def start(self, inputs, max_length, samples=1, beams=1):
    """Reads the inputs, all at once; see `encoder_decoder.T5.start`.

    The last input is both in the cache, for the inputs before it that see it, and read again by the
    first step, for its logits.
    """
    batch_size, inputs_length = inputs.shape
    num_slots = inputs_length + max_length
    first_slot = inputs_length - jnp.sum(inputs > 0, axis=1)
    # [batch, inputs_length + 1]: the start token, then the inputs, moved to the right.
    position = jnp.arange(inputs_length + 1) - first_slot[:, None]
    tokens = jnp.pad(inputs, ((0, 0), (1, 0)), constant_values=START_ID)
    tokens = jnp.take_along_axis(tokens, jnp.maximum(position, 0), axis=1)
    valid = position >= 0
    mask = self._sees(inputs_length + 1, valid) & attention.padding_mask(valid, valid)
    caches = self.decoder.prefill(
      self.token_embedder(tokens), jnp.maximum(position, 0), mask, num_slots, beams
    )
    token, first_slot, caches = jax.tree.map(
      lambda x: jnp.repeat(x, samples, axis=0), (tokens[:, -1:], first_slot, caches)
    )
    ancestors = beams_lib.first_ancestors(batch_size * samples, beams, num_slots)
    return jnp.repeat(token, beams, axis=1), Cache(caches, first_slot, ancestors, inputs_length)

  def decode_step(self, tokens, cache, index):
    """Decodes one position; see `encoder_decoder.T5.decode_step`."""
    slot = cache.inputs_length + index
    position = (slot - cache.first_slot)[:, None]
    slots = jnp.arange(decoder.num_slots_of(cache.layers, tokens.shape[1]))
    visible = (slots <= slot) & (slots >= cache.first_slot[:, None])  # [rows, num_slots]
    ancestors = beams_lib.with_own_slot(cache.ancestors, slot)
    hidden, caches = self.decoder.step(
      self.token_embedder(tokens),
      cache.layers,
      slot,
      position,
      beams_lib.mask(visible, ancestors),
    )
    return self.logits(hidden), cache.replace(layers=caches, ancestors=ancestors)

  def _sees(self, length, is_prefix):
    """Returns the mask of what each of `length` positions may see, but for padding and packing.

    Args:
      length: of the sequence.
      is_prefix: [batch, length], true for the inputs; None where there are none.
    """
    mask = attention.causal_mask(length)
    if is_prefix is None or not decoder.decoder_is_bidirectional(self.config):
      return mask
    is_prefix = is_prefix > 0
    return mask | attention.padding_mask(is_prefix, is_prefix)
