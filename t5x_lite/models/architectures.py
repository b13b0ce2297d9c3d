"""The model that a configuration describes."""

import dataclasses

from t5x_lite.models import decoder_only, encoder_decoder, stacking


def create(config):
  """Returns the Flax module of a `T5Config`.

  All of them have the methods `hidden` and `logits` for training, which take and return what
  `encoder_decoder.T5` documents, and `start` and `decode_step` for decoding.
  """
  model_class = encoder_decoder.T5 if config.has_encoder else decoder_only.LanguageModel
  return model_class(config)


def for_decoding(config, params):
  """Returns (model, parameters) with the layers unrolled.

  Decoding appends to a cache per layer in place; a scan over layers would copy every cache at
  every step.
  """
  unrolled = dataclasses.replace(config.for_inference(), scan_layers=False)
  return create(unrolled), stacking.unstack_layers(params)
