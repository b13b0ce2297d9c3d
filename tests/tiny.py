"""The model that most tests are about: one small enough that only compiling it takes time."""

from t5x_lite.models.config import T5Config

SHAPE = {
  'vocab_size': 32,
  'emb_dim': 8,
  'num_heads': 2,
  'head_dim': 4,
  'mlp_dim': 16,
  'num_encoder_layers': 1,
  'num_decoder_layers': 1,
}


def config(**changes) -> T5Config:
  """Returns the tiny model's configuration in float32, changed as a test needs it."""
  return T5Config(**{**SHAPE, 'dtype': 'float32', **changes})
