"""FLOPs of T5, against counts by hand and by XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from t5x_lite.models import config as model_config
from t5x_lite.monitoring import flops

T5_1_0_SMALL = model_config.T5Config(
  vocab_size=32128,
  emb_dim=512,
  num_heads=8,
  head_dim=64,
  mlp_dim=2048,
  num_encoder_layers=6,
  num_decoder_layers=6,
  mlp_activations=('relu',),
  logits_via_embedding=True,
)
T5_1_1_SMALL = model_config.T5Config(
  vocab_size=32128,
  emb_dim=512,
  num_heads=6,
  head_dim=64,
  mlp_dim=1024,
  num_encoder_layers=8,
  num_decoder_layers=8,
)
# Every number another prime, so that no term can stand for another.
ODD = model_config.T5Config(
  vocab_size=31,
  emb_dim=3,
  num_heads=5,
  head_dim=7,
  mlp_dim=11,
  num_encoder_layers=2,
  num_decoder_layers=3,
  dtype='float32',
)


@pytest.mark.parametrize('config', [T5_1_0_SMALL, T5_1_1_SMALL])
def test_both_small_models_take_850_gigaflop_a_step(config):
  assert flops.train_step_flops(config, 8, 512, 114) == pytest.approx(850.0e9, abs=0.1e9)


def test_every_term_counts_as_often_as_its_matrix_is_used():
  batch, inputs, targets = 13, 17, 19
  encoder_layer = 4 * 3 * 35 + 2 * inputs * 35 + 3 * 3 * 11
  decoder_layer = 6 * 3 * 35 + 2 * targets * 35 + 2 * inputs * 35 + 3 * 3 * 11
  multiplications = batch * inputs * (2 * encoder_layer + 3 * 2 * 3 * 35) + batch * targets * (
    3 * decoder_layer + 3 * 31
  )
  assert flops.forward_flops(ODD, batch, inputs, targets) == 2 * multiplications
  assert flops.train_step_flops(ODD, batch, inputs, targets) == 6 * multiplications


def test_frozen_weights_have_no_gradient_and_a_prompt_is_so_many_more_inputs():
  lengths = (13, 17, 19)
  all_trained, none_trained = (flops.train_step_flops(ODD, *lengths, share) for share in (1, 0))
  inputs, targets = (13 * length for length in lengths[1:])
  encoder_layer, decoder_layer = 4 * 3 * 35 + 3 * 3 * 11, 6 * 3 * 35 + 3 * 3 * 11
  multiplications = inputs * (2 * encoder_layer + 3 * 2 * 3 * 35) + targets * (
    3 * decoder_layer + 3 * 31
  )
  assert all_trained - none_trained == 2 * multiplications

  prompted = dataclasses.replace(ODD, adapter=model_config.Prompt(length=4))
  assert flops.forward_flops(prompted, 13, 13, 19) == flops.forward_flops(ODD, *lengths)
  assert flops.decode_cost(prompted, 13, 13, 19) == flops.decode_cost(ODD, *lengths)


def test_attention_agrees_with_xla_count():
  query, key = jnp.zeros((1, 19, 5, 7)), jnp.zeros((1, 17, 5, 7))

  def attend(query, key, value):
    logits = jnp.einsum('bqhd,bkhd->bhqk', query, key)
    return jnp.einsum('bhqk,bkhd->bqhd', logits, value)

  analysis = jax.jit(attend).lower(query, key, key).compile().cost_analysis()
  assert analysis['flops'] == 19 * flops._attention(ODD, key_length=17)


def test_decoding_token_by_token_costs_what_scoring_does():
  cost = flops.decode_cost(ODD, 13, 17, 19)
  assert cost.flops == flops.forward_flops(ODD, 13, 17, 19)
  assert cost.encode_flops == flops.encode_flops(ODD, 13, 17)


def test_a_decoding_step_moves_each_weight_and_cached_value_once():
  batch, inputs, steps = 13, 17, 19
  weights = 3 * (6 * 3 * 35 + 3 * 3 * 11) + 3 * 31
  cached = 3 * 2 * batch * (inputs + steps) * 35
  assert flops.decode_cost(ODD, batch, inputs, steps).step_bytes == 4 * (weights + cached)
  halved = flops.decode_cost(ODD, batch, inputs, steps, weight_bytes=2)
  assert halved.step_bytes == 2 * weights + 4 * cached


LANGUAGE_MODEL = dataclasses.replace(ODD, architecture='language_model', num_encoder_layers=0)


def test_a_language_model_counts_inputs_and_targets_in_one_stack_without_cross_attention():
  batch, inputs, targets = 13, 17, 19
  length = inputs + targets
  layer = 4 * 3 * 35 + 2 * length * 35 + 3 * 3 * 11
  expected = 2 * batch * length * (3 * layer + 3 * 31)
  assert flops.forward_flops(LANGUAGE_MODEL, batch, inputs, targets) == expected
  assert flops.train_step_flops(LANGUAGE_MODEL, batch, 0, length) == 3 * expected

  cost = flops.decode_cost(LANGUAGE_MODEL, batch, inputs, targets)
  read = inputs + 1  # With the start token.
  prefill_layer = 4 * 3 * 35 + 2 * read * 35 + 3 * 3 * 11
  assert cost.encode_flops == 2 * batch * read * 3 * prefill_layer
  assert cost.step_flops == 2 * batch * (3 * layer + 3 * 31)
  weights = 3 * (4 * 3 * 35 + 3 * 3 * 11) + 3 * 31
  assert cost.step_bytes == 4 * (weights + 3 * 2 * batch * length * 35)


def test_sharing_parameters_saves_no_flops_and_position_schemes_cost_none():
  same = dataclasses.replace(ODD, num_encoder_layers=3)
  shared = dataclasses.replace(same, architecture='shared_encoder_decoder')
  per_layer = dataclasses.replace(same, position_scheme='relative_bias_per_layer')
  for config in (shared, per_layer):
    assert flops.forward_flops(config, 13, 17, 19) == flops.forward_flops(same, 13, 17, 19)


@pytest.mark.parametrize(
  ('device_kind', 'teraflops'),
  [
    ('TPU v3', 61.5),
    ('TPU v4', 275),
    ('TPU v5 lite', 197),
    ('TPU v5e', 197),
    ('TPU v5', 459),
    ('TPU v5p', 459),
    ('TPU v6 lite', 918),
    ('TPU v6e', 918),
    ('NVIDIA A100-SXM4-40GB', 312),
    ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756),
    ('NVIDIA H200', 989),
    ('NVIDIA L4', 121),
    ('NVIDIA L40S', 362),
  ],
)
def test_published_peaks_are_found_by_device_kind(device_kind, teraflops):
  assert flops.peak_flops(device_kind) == teraflops * 1e12
  assert flops.peak_flops(device_kind, 'float16') == teraflops * 1e12
  float32_share = 1 if 'TPU' in device_kind else 0.5
  assert flops.peak_flops(device_kind, 'float32') == teraflops * 1e12 * float32_share


@pytest.mark.parametrize('device_kind', ['cpu', '', 'NVIDIA GeForce GTX 1080', 'TPU v99'])
def test_unknown_devices_have_no_peak(device_kind):
  assert flops.peak_flops(device_kind) is None


def test_mfu_is_a_share_of_the_peak_or_unknown():
  assert flops.mfu(850e9, 2.0, 3.4e12) == 0.5
  assert flops.mfu(850e9, 2.0, None) is None
