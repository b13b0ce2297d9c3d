"""LoRA, (IA)^3 and the soft prompt: what they compute, and how they merge."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import traverse_util

from t5x_lite import errors
from t5x_lite.checkpoints import foreign, merging
from t5x_lite.decoding import loop, sampling
from t5x_lite.models import adapters, encoder_decoder, layers, stacking
from t5x_lite.models.config import IA3, LoRA, Prompt, T5Config

EVERY_KERNEL = LoRA(rank=2, alpha=3.0, kernels='.*/kernel')
INPUTS = np.array([[3, 9, 4, 1, 0, 0], [7, 8, 6, 5, 2, 1]], np.int32)
TARGETS = np.array([[5, 6, 1, 0], [8, 9, 4, 1]], np.int32)


def config(**changes):
  return tiny.config(**{'num_encoder_layers': 2, **changes})


def features(inputs=INPUTS):
  return {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': np.pad(TARGETS, ((0, 0), (1, 0)))[:, :-1],
    'decoder_target_tokens': TARGETS,
  }


def by_name(params):
  return traverse_util.flatten_dict(params, sep='/')


def create(config):
  """Returns new parameters, by name."""
  init = jax.jit(lambda: nn.unbox(encoder_decoder.T5(config).init(jax.random.key(0), features())))
  return by_name(init()['params'])


def logits(config, params, inputs=INPUTS):
  params = traverse_util.unflatten_dict(params, sep='/') if 'encoder' not in params else params
  apply = jax.jit(encoder_decoder.T5(config).apply)
  return np.asarray(apply({'params': params}, features(inputs)))


def greedy(config, params, inputs=INPUTS):
  def decode(params):
    decoded = loop.decode(config, params, inputs, sampling.Sampling(), max_length=5)
    return jax.tree.map(lambda x: x[:, 0], decoded)

  return jax.jit(decode)(params)


@pytest.fixture(scope='module')
def base():
  return create(config(scan_layers=False))


@pytest.mark.parametrize('adapter', [EVERY_KERNEL, IA3()])
def test_a_new_adapter_leaves_every_logit_as_it_was(base, adapter):
  adapted = config(scan_layers=False, adapter=adapter)
  params = create(adapted)
  new = {name for name in params if adapters.is_parameter(name)}
  assert params.keys() - new == base.keys() and new
  for name, x in base.items():
    np.testing.assert_array_equal(params[name], x)
  np.testing.assert_array_equal(
    logits(adapted, params), logits(config(scan_layers=False), base), strict=True
  )


def test_an_adapter_lies_beside_what_it_adapts():
  params = by_name(tiny.params(config(adapter=LoRA(rank=3))))
  new = {name: x.shape for name, x in params.items() if adapters.is_parameter(name)}
  expected = {}
  blocks = {
    'encoder/layers/attention': 2,
    'decoder/layers/self_attention': 1,
    'decoder/layers/encoder_decoder_attention': 1,
  }
  for block, num_layers in blocks.items():
    for kernel in ('query', 'value'):
      expected[f'{block}/{kernel}/lora_a'] = (num_layers, 8, 3)
      expected[f'{block}/{kernel}/lora_b'] = (num_layers, 3, 8)
  assert new == expected
  params = by_name(tiny.params(config(scan_layers=False, adapter=IA3())))
  new = {name: x.shape for name, x in params.items() if adapters.is_parameter(name)}
  assert len(new) == 2 * (2 + 1) + (2 + 2 + 1)
  assert new['decoder/layers_0/encoder_decoder_attention/value/ia3'] == (8,)
  assert new['encoder/layers_0/mlp/wo/ia3'] == (16,)


def test_lora_adds_a_scaled_product_of_low_rank_and_drops_inputs_of_that_alone():
  def dense(dropout_rate):
    adapter = LoRA(rank=2, alpha=5.0, dropout_rate=dropout_rate, kernels='.*kernel')
    init = nn.initializers.normal()
    return layers.Dense(4, ('embed', 'mlp'), init, jnp.float32, adapter, name='wi')

  class Model(nn.Module):
    dropout_rate: float

    @nn.compact
    def __call__(self, x):
      return dense(self.dropout_rate)(x)

  x = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
  variables = nn.unbox(Model(0.0).init(jax.random.key(0), x))
  own = variables['params']['wi']
  own['lora_b'] = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32)
  plain = x @ own['kernel']
  expected = plain + x @ own['lora_a'] @ own['lora_b'] * 2.5
  np.testing.assert_allclose(Model(0.0).apply(variables, x), expected, rtol=1e-5, atol=1e-6)

  dropped = Model(0.5).apply(variables, x, rngs={'dropout': jax.random.key(3)})
  np.testing.assert_allclose(Model(0.5).apply(variables, x), expected, rtol=1e-5, atol=1e-6)
  assert not np.allclose(dropped, expected)
  own['lora_b'] = np.zeros((2, 4), np.float32)
  dropped = Model(0.5).apply(variables, x, rngs={'dropout': jax.random.key(3)})
  np.testing.assert_allclose(dropped, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('adapter', [EVERY_KERNEL, IA3()])
def test_a_merged_model_scores_and_decodes_as_the_adapted_one(adapter):
  adapted = config(adapter=adapter, scan_layers=False)
  params = tiny.params(adapted)
  leaves = by_name(params)
  shapes = {name: x.shape for name, x in leaves.items()}
  weights = merging.merged(foreign.Weights('run', adapted, None, shapes, leaves.get))
  plain, merged = weights.model, {name: weights.read(name) for name in weights.shapes}
  assert plain == config(scan_layers=False)
  assert merged.keys() == {name for name in leaves if not adapters.is_parameter(name)}
  expected = logits(adapted, params)
  merged = traverse_util.unflatten_dict(merged, sep='/')
  np.testing.assert_allclose(logits(plain, merged), expected, rtol=2e-5, atol=2e-5)
  untouched = {name: leaves[name] for name in weights.shapes}
  assert np.abs(logits(plain, untouched) - expected).max() > 0.1

  ours, theirs = greedy(adapted, params), greedy(plain, merged)
  np.testing.assert_array_equal(ours.tokens, theirs.tokens)
  np.testing.assert_allclose(ours.scores, theirs.scores, rtol=2e-5)


@pytest.mark.parametrize('adapter', [EVERY_KERNEL, IA3(), Prompt(3, 'uniform')])
def test_scanned_layers_compute_what_layers_apart_do(adapter):
  scanned = config(adapter=adapter, remat_policy='minimal')
  params = tiny.params(scanned)
  apart = dataclasses.replace(scanned, scan_layers=False)
  np.testing.assert_allclose(
    logits(apart, stacking.unstack_layers(params)), logits(scanned, params), rtol=1e-5, atol=1e-5
  )


def test_a_prompt_of_rows_of_the_embedding_is_the_tokens_of_these_rows(base):
  plain = config(scan_layers=False)
  prompted = dataclasses.replace(plain, adapter=Prompt(2))
  ids = np.array([11, 30])
  params = {**base, 'prompt/embedding': base['token_embedder/embedding'][ids]}
  spelled = np.concatenate([np.tile(ids, (2, 1)), INPUTS], axis=1).astype(np.int32)
  np.testing.assert_allclose(
    logits(prompted, params), logits(plain, base, spelled), rtol=1e-5, atol=1e-6
  )

  nested = traverse_util.unflatten_dict(params, sep='/')
  decoded = greedy(prompted, nested)
  expected = greedy(plain, traverse_util.unflatten_dict(base, sep='/'), spelled)
  np.testing.assert_array_equal(decoded.tokens, expected.tokens)
  np.testing.assert_allclose(decoded.scores, expected.scores, rtol=1e-5)


def test_a_new_prompt_is_made_of_different_rows_of_the_embedding(base):
  adapter = Prompt(length=20)
  params = create(config(scan_layers=False, adapter=adapter))
  nested = traverse_util.unflatten_dict(params, sep='/')
  table = np.asarray(base['token_embedder/embedding'])

  def ids(seed):
    made = np.asarray(adapters.initialize(adapter, nested, seed)['prompt']['embedding'])
    return [int(np.flatnonzero((table == row).all(axis=1))[0]) for row in made]

  assert len(set(ids(0))) == 20 and min(ids(0)) >= 3
  assert ids(0) == ids(0) != ids(1)
  assert adapters.initialize(Prompt(20, 'uniform'), nested, 0) is nested
  uniform = np.asarray(nested['prompt']['embedding'])
  assert -0.5 <= uniform.min() < -0.3 and 0.3 < uniform.max() <= 0.5


def test_a_prompt_does_not_stand_before_packed_rows():
  prompted = config(adapter=Prompt(2))
  model = encoder_decoder.T5(prompted)
  batch = features() | {'encoder_segment_ids': INPUTS, 'decoder_segment_ids': TARGETS}
  with pytest.raises(errors.UserError, match='PACK=False'):
    jax.eval_shape(model.init, jax.random.key(0), batch)


def test_a_pattern_for_no_kernel_or_for_half_a_stack_is_refused_naming_the_kernels(base):
  nested = traverse_util.unflatten_dict(base, sep='/')
  with pytest.raises(errors.UserError) as error:
    adapters.check_params(LoRA(kernels='.*/attention/q/kernel'), nested)
  message = str(error.value)
  assert "LoRA.kernels='.*/attention/q/kernel' matches none of the kernels" in message
  assert 'decoder/layers/encoder_decoder_attention/key/kernel' in message
  assert 'logits_dense' not in message and 'layers_0' not in message
  one = LoRA(kernels='encoder/layers_1/mlp/wo/kernel')
  adapters.check_params(one, nested)
  with pytest.raises(errors.UserError, match='SCAN_LAYERS=False'):
    adapters.check_params(one, stacking.stack_layers(nested))


@pytest.mark.parametrize('adapter', [None, LoRA(rank=4, alpha=2.5), IA3(), Prompt(7, 'uniform')])
def test_a_configuration_comes_back_from_a_checkpoints_metadata(adapter):
  original = config(adapter=adapter)
  fields = json.loads(json.dumps(dataclasses.asdict(original)))
  assert T5Config.from_dict(fields) == original
  del fields['adapter']
  assert T5Config.from_dict(fields).adapter is None  # Of a checkpoint from before there were any.


@pytest.mark.parametrize(
  ('adapter', 'fields', 'message'),
  [
    (LoRA, {'rank': 0}, 'LoRA.rank=0 must be at least 1'),
    (LoRA, {'dropout_rate': 1.0}, r'dropout_rate=1.0 is not in \[0, 1\)'),
    (LoRA, {'kernels': '('}, r"LoRA.kernels='\(': "),
    (Prompt, {'length': 0}, 'Prompt.length=0 must be at least 1'),
    (Prompt, {'init': 'words'}, "'vocabulary' or 'uniform', not 'words'"),
  ],
)
def test_a_setting_that_makes_no_sense_is_refused(adapter, fields, message):
  with pytest.raises(errors.UserError, match=message):
    adapter(**fields)


def test_a_prompt_cannot_be_merged():
  with pytest.raises(errors.UserError, match='cannot be merged'):
    merging.merged(foreign.Weights('run', config(adapter=Prompt(2)), None, {}, None))
