"""What T5Config refuses."""

import pytest
import tiny

from t5x_lite import errors
from t5x_lite.models.config import Prompt


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'vocab_size': 0}, 'vocab_size must be positive, not 0'),
    ({'head_dim': -1}, 'head_dim must be positive, not -1'),
    ({'num_decoder_layers': 0}, 'num_decoder_layers must be at least 1, not 0'),
    ({'dropout_rate': 1.0}, r'dropout_rate=1.0 is not in \[0, 1\)'),
    ({'dropout_rate': -0.1}, r'dropout_rate=-0.1 is not in \[0, 1\)'),
    ({'remat_policy': 'all'}, "remat_policy holds 'all'; it may be none, minimal, full"),
    ({'dtype': 'fp32'}, "dtype holds 'fp32'; it may be float32, bfloat16, float16"),
    ({'mlp_activations': ('gelu', 'tanh')}, "mlp_activations holds 'tanh'"),
    ({'mlp_activations': ()}, 'mlp_activations is empty'),
    ({'relative_attention_num_buckets': 31}, 'num_buckets=31 must be even and at least 4'),
    ({'relative_attention_max_distance': 16}, 'max_distance=16 must exceed half of'),
    (
      {'architecture': 'decoder'},
      "architecture holds 'decoder'; it may be encoder_decoder, shared",
    ),
    ({'architecture': 'language_model'}, 'num_encoder_layers=1, but .* no encoder: set it to 0'),
    ({'num_encoder_layers': 0}, 'num_encoder_layers must be at least 1, not 0'),
    (
      {'architecture': 'shared_encoder_decoder', 'num_decoder_layers': 2},
      'num_encoder_layers=1 and num_decoder_layers=2 must be equal',
    ),
    ({'position_scheme': 'alibi'}, "position_scheme holds 'alibi'; it may be relative_bias, "),
    ({'position_scheme': 'learned'}, 'needs max_position_embeddings, .* it is None'),
    ({'max_position_embeddings': 9}, "=9 is for position_scheme='learned', but .*'relative_bias'"),
    ({'position_scheme': 'rotary', 'head_dim': 3}, 'turns pairs, but head_dim=3 is odd'),
    ({'position_scheme': 'sinusoidal', 'emb_dim': 5}, 'emb_dim=5 is odd'),
    (
      {'architecture': 'language_model', 'num_encoder_layers': 0, 'adapter': Prompt()},
      "stands before the input of an encoder, but architecture='language_model' has none",
    ),
  ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(changes, message):
  with pytest.raises(errors.UserError, match=message) as error:
    tiny.config(**changes)
  assert '\n' not in str(error.value)


def test_activations_of_a_gin_list_become_a_tuple_so_that_configs_hash():
  config = tiny.config(mlp_activations=['gelu', 'linear'])
  assert config.mlp_activations == ('gelu', 'linear')
  assert hash(config) == hash(tiny.config())
