"""The whole model: T5X's numbers, packing, padding, forms of the stacks, decoding."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import serialization

from t5x_lite import losses
from t5x_lite.models import architectures, encoder_decoder, stacking
from t5x_lite.models.config import T5Config

TINY = tiny.config(head_dim=3, num_encoder_layers=2, num_decoder_layers=2)
T5_1_0 = {'mlp_activations': ('relu',), 'logits_via_embedding': True}


def new_params(config):
  features = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  batch = dict.fromkeys(features, np.ones((1, 2), np.int32))
  model = encoder_decoder.T5(config)
  params = jax.jit(lambda key: nn.unbox(model.init(key, batch)['params']))(jax.random.key(0))
  return jax.tree.map(np.asarray, params)


@pytest.fixture(scope='module')
def params():
  """Stacked parameters of `TINY`."""
  return new_params(TINY)


def logits_function(config):
  model = encoder_decoder.T5(config)
  return jax.jit(lambda params, batch: model.apply({'params': params}, batch))


@pytest.fixture(scope='module')
def logits(params):
  function = logits_function(TINY)
  return lambda batch: np.asarray(function(params, batch))


def as_batch(examples, inputs_length, targets_length):
  """Pads (inputs, targets) pairs, one to a row."""
  batch = {
    'encoder_input_tokens': np.zeros((len(examples), inputs_length), np.int32),
    'decoder_input_tokens': np.zeros((len(examples), targets_length), np.int32),
    'decoder_target_tokens': np.zeros((len(examples), targets_length), np.int32),
  }
  for i, (inputs, targets) in enumerate(examples):
    batch['encoder_input_tokens'][i, : len(inputs)] = inputs
    batch['decoder_input_tokens'][i, 1 : len(targets)] = targets[:-1]
    batch['decoder_target_tokens'][i, : len(targets)] = targets
  return batch


EXAMPLES = [([5, 9, 1], [7, 7, 1]), ([4, 1], [3, 9, 8, 1]), ([6, 2, 8, 1], [1])]


@pytest.mark.parametrize('scan_layers', [False, True])
def test_t5xs_checkpoint_gives_t5xs_encoding_logits_and_loss(shared_data, scan_layers):
  folder = shared_data / 'checkpoints' / 't5x_tiny'
  saved = serialization.msgpack_restore((folder / 'test_t5_tiny.checkpoint_0').read_bytes())
  params = saved['optimizer']['target']
  if scan_layers:
    params = stacking.stack_layers(params)
  info = json.loads((folder / 't5x_tiny_fp32.json').read_text())
  model = encoder_decoder.T5(T5Config(**info['config'], scan_layers=scan_layers))
  with np.load(folder / 't5x_tiny_fp32.npz') as arrays:
    expected = dict(arrays)
  batch = {name: x for name, x in expected.items() if name.endswith('_tokens')}

  @jax.jit
  def forward(params):
    variables = {'params': params}
    encoded = model.apply(variables, batch['encoder_input_tokens'], method='encode')
    logits = model.apply(variables, batch)
    return encoded, logits, losses.cross_entropy(logits, batch['decoder_target_tokens'])[0]

  encoded, logits, loss = forward(params)
  np.testing.assert_allclose(encoded, expected['encoded'], atol=2e-6)
  np.testing.assert_allclose(logits, expected['logits'], atol=5e-6)
  np.testing.assert_array_equal(logits.argmax(-1), expected['argmax'])
  weights = batch['decoder_target_tokens'] > 0
  assert weights.sum() == info['weight_sum']
  np.testing.assert_allclose(loss[weights], expected['nll'][weights], atol=5e-6)
  np.testing.assert_allclose(loss[weights].sum(), info['loss_sum'], rtol=5e-7)


def test_a_packed_row_gives_each_example_what_it_gets_alone(logits):
  alone = logits(as_batch(EXAMPLES, inputs_length=4, targets_length=4))
  packed = {name: np.zeros((1, 12), np.int32) for name in as_batch(EXAMPLES, 4, 4)}
  packed |= {
    name: np.zeros((1, 12), np.int32) for name in ('encoder_segment_ids', 'decoder_segment_ids')
  }
  inputs_start = targets_start = 0
  places = []
  for segment, (inputs, targets) in enumerate(EXAMPLES, start=1):
    there = slice(inputs_start, inputs_start + len(inputs))
    packed['encoder_input_tokens'][0, there] = inputs
    packed['encoder_segment_ids'][0, there] = segment
    here = slice(targets_start, targets_start + len(targets))
    packed['decoder_input_tokens'][0, here] = [0, *targets[:-1]]
    packed['decoder_target_tokens'][0, here] = targets
    packed['decoder_segment_ids'][0, here] = segment
    inputs_start, targets_start = there.stop, here.stop
    places.append(here)
  together = logits(packed)
  for example, place in enumerate(places):
    expected = alone[example, : place.stop - place.start]
    np.testing.assert_allclose(together[0, place], expected, atol=2e-6)


def test_padding_changes_nothing_at_real_positions(logits):
  short = logits(as_batch(EXAMPLES, inputs_length=4, targets_length=4))
  long = logits(as_batch(EXAMPLES, inputs_length=9, targets_length=7))
  for row, (_, targets) in enumerate(EXAMPLES):
    length = len(targets)
    np.testing.assert_allclose(short[row, :length], long[row, :length], atol=2e-6)
  assert np.isfinite(long).all()


def test_a_token_sees_no_later_target(logits):
  batch = as_batch([([5, 9, 1], [7, 7, 4, 1])], 4, 4)
  changed = batch | {'decoder_input_tokens': batch['decoder_input_tokens'].copy()}
  changed['decoder_input_tokens'][0, 2] = 30
  before, after = logits(batch), logits(changed)
  np.testing.assert_array_equal(before[0, :2], after[0, :2])
  assert np.abs(before[0, 2:] - after[0, 2:]).max() > 1e-3


def loss_and_gradient(config):
  model = encoder_decoder.T5(config)
  batch = as_batch(EXAMPLES, 4, 4)

  def loss(params):
    logits = model.apply({'params': params}, batch)
    return losses.cross_entropy(logits, batch['decoder_target_tokens'])[0].mean(), logits

  return jax.value_and_grad(loss, has_aux=True)


@pytest.fixture(scope='module')
def unrolled_result(params):
  config = dataclasses.replace(TINY, scan_layers=False)
  return jax.jit(loss_and_gradient(config))(stacking.unstack_layers(params))


@pytest.mark.parametrize(
  'scan_layers, remat_policy',
  [(True, 'none'), (True, 'minimal'), (True, 'full'), (False, 'full')],
)
def test_scan_and_remat_change_neither_loss_nor_logits_nor_gradient(
  params, unrolled_result, scan_layers, remat_policy
):
  config = dataclasses.replace(TINY, scan_layers=scan_layers, remat_policy=remat_policy)
  if not scan_layers:
    params = stacking.unstack_layers(params)
  (loss, logits), gradient = jax.jit(loss_and_gradient(config))(params)
  (expected_loss, expected_logits), expected_gradient = unrolled_result
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
  np.testing.assert_allclose(logits, expected_logits, atol=3e-6)
  if scan_layers:
    gradient = stacking.unstack_layers(gradient)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    gradient,
    expected_gradient,
  )


def count(name, jaxpr):
  """Counts the equations of a primitive in a jaxpr and those inside it."""
  total = 0
  for equation in jaxpr.eqns:
    total += equation.primitive.name == name
    for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, 'jaxpr')):
      inner = getattr(parameter, 'jaxpr', parameter)
      if hasattr(inner, 'eqns'):
        total += count(name, inner)
  return total


def test_minimal_remat_recomputes_attention_and_full_remat_the_weight_products_too(params):
  unrolled = stacking.unstack_layers(params)
  products = {}
  for policy in ('none', 'minimal', 'full'):
    config = dataclasses.replace(TINY, scan_layers=False, remat_policy=policy)
    jaxpr = jax.make_jaxpr(loss_and_gradient(config))(unrolled).jaxpr
    products[policy] = count('dot_general', jaxpr)
  # Two layers of self-attention in either stack and two of cross-attention, two products each.
  assert products['none'] < products['minimal'] <= products['none'] + 2 * 6
  assert products['full'] > products['minimal'] + 12


def test_bfloat16_keeps_float32_parameters_and_logits_and_a_near_loss(params, logits):
  config = dataclasses.replace(TINY, dtype='bfloat16')
  model = encoder_decoder.T5(config)
  batch = as_batch(EXAMPLES, inputs_length=4, targets_length=4)
  hidden = jax.eval_shape(lambda: model.apply({'params': params}, batch, method='hidden'))
  assert hidden.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(new_params(config))} == {np.dtype('float32')}

  low = logits_function(config)(params, batch)
  assert low.dtype == jnp.float32
  low_loss, loss = (
    losses.cross_entropy(x, batch['decoder_target_tokens'])[0] for x in (low, logits(batch))
  )
  np.testing.assert_allclose(low_loss, loss, rtol=0.02)


@pytest.mark.parametrize('changes', [{}, T5_1_0], ids=['t5_1_1', 't5_1_0'])
def test_decoding_token_by_token_gives_the_logits_of_teacher_forcing(changes):
  config = dataclasses.replace(TINY, **changes)
  params = new_params(config)
  batch = as_batch([([5, 9, 1], [7, 7, 4, 9, 2, 1]), ([4, 1], [3, 9, 8, 3, 3, 3])], 4, 6)
  whole = logits_function(config)(params, batch)

  model, params = architectures.for_decoding(config, params)
  start = jax.jit(lambda inputs: model.apply({'params': params}, inputs, 8, method='start'))
  advance = jax.jit(functools.partial(model.apply, {'params': params}, method='decode_step'))

  _, cache = start(batch['encoder_input_tokens'])
  for i in range(6):
    logits, cache = advance(batch['decoder_input_tokens'][:, i : i + 1], cache, i)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[:, 0], whole[:, i], atol=3e-6)
