"""What the backward pass finds kept, where, and that it changes no result."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import tiny

from t5x_lite import errors
from t5x_lite.models import architectures, stacking
from t5x_lite.models.config import REMAT_NAMES, T5Config

TINY = tiny.config(num_encoder_layers=2, num_decoder_layers=2, dropout_rate=0.1)
BATCH = tiny.batch()


def loss_of(config):
  model = architectures.create(config)

  def loss(params):
    hidden = model.apply(
      {'params': params}, BATCH, method='hidden', rngs={'dropout': jax.random.key(0)}
    )
    return (hidden**2).mean()

  return loss


@pytest.fixture(scope='module')
def params():
  return tiny.params(TINY)


def kept_bytes(params, **changes):
  """Returns what lies between the forward and the backward pass; nothing is computed."""
  loss = loss_of(dataclasses.replace(TINY, **changes))
  kept = jax.eval_shape(lambda params: jax.tree.leaves(jax.vjp(loss, params)[1]), params)
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in kept)


def test_each_name_keeps_something_and_each_policy_less_than_the_one_before(params):
  def kept(policy):
    return kept_bytes(params, remat_policy=policy)

  full = kept('full')
  assert kept(()) == full
  assert full < kept('minimal') < kept('none')
  for name in set(REMAT_NAMES) - {'layer_input'}:
    assert kept((name,)) > full, name
  # Two layers of two gates in either stack: [8, 6 or 5, 16] float32.
  assert kept(('mlp_wi',)) - full == 2 * 2 * 8 * (6 + 5) * 16 * 4
  # Self-attention in both stacks, and from the 5 targets to the 6 inputs: [8, 2, query, key].
  # The biases that they were computed with, [1, 2, query, key], are not wanted then.
  weights, biases = 2 * 8 * 2 * (6 * 6 + 5 * 5 + 5 * 6), 2 * (6 * 6 + 5 * 5)
  assert kept(('attention_weights',)) - full == (weights - biases) * 4


def test_attention_weights_are_kept_once_and_in_the_type_of_activations(params):
  def kept(policy):
    return kept_bytes(params, remat_policy=policy, dtype='bfloat16')

  # In float32 they alone would take 4.
  weights, biases = 2 * 8 * 2 * (6 * 6 + 5 * 5 + 5 * 6), 2 * (6 * 6 + 5 * 5)
  assert kept(('attention_weights',)) - kept('full') == weights * 2 - biases * 4


def assert_same(actual, expected):
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual[1], expected[1]
  )


def loss_and_gradient(params, **changes):
  return jax.jit(jax.value_and_grad(loss_of(dataclasses.replace(TINY, **changes))))(params)


@pytest.fixture(scope='module')
def expected(params):
  """The loss and the gradient without recomputation."""
  return loss_and_gradient(params)


@pytest.mark.parametrize(
  'policy, offload',
  [
    ('full', ('layer_input',)),
    (('context', 'mlp_wi'), ('mlp_wi', 'attention_weights')),
  ],
)
def test_what_is_kept_changes_neither_loss_nor_gradient(params, expected, policy, offload):
  # Dropout draws the masks again that it drew in the forward pass.
  actual = loss_and_gradient(params, remat_policy=policy, remat_offload=offload)
  assert_same(actual, expected)


def test_nor_does_it_where_the_layers_are_unrolled(params):
  unrolled = stacking.unstack_layers(params)
  off = {'scan_layers': False, 'dropout_rate': 0.0}
  loss, gradient = loss_and_gradient(
    unrolled, remat_policy=('query', 'value'), remat_offload=('layer_input', 'context'), **off
  )
  assert_same((loss, gradient), loss_and_gradient(unrolled, **off))


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_what_is_offloaded_goes_to_the_hosts_memory(params, platform):
  def program(**changes):
    loss = jax.jit(jax.grad(loss_of(dataclasses.replace(TINY, **changes))))
    return loss.trace(params).lower(lowering_platforms=(platform,)).as_text()

  # To the host in the forward pass of either stack, and back in the backward pass.
  offloaded = program(remat_policy='full', remat_offload=('layer_input',))
  assert offloaded.count('"pinned_host"') == 2
  assert 'pinned_host' not in program(remat_policy='full')


def test_names_without_a_policy_are_no_part_of_the_program(params):
  text = jax.jit(jax.grad(loss_of(TINY))).lower(params).as_text()
  assert not [name for name in REMAT_NAMES if f'"{name}"' in text]
  assert 'optimization_barrier' not in text


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'remat_policy': ('mlp',)},
      "remat_policy holds 'mlp'; it may be layer_input, query, .*mlp_wi",
    ),
    ({'remat_policy': 'mlp_wi'}, "holds 'mlp_wi'; it may be none, minimal, full, or a tuple"),
    (
      {'remat_policy': 'full', 'remat_offload': ('x',)},
      "remat_offload holds 'x'; it may be layer_",
    ),
    (
      {'remat_offload': ('context',)},
      "=\\('context',\\), but remat_policy='none' keeps everything",
    ),
  ],
)
def test_a_name_that_there_is_not_is_refused_listing_those_there_are(changes, message):
  with pytest.raises(errors.UserError, match=message) as error:
    tiny.config(**changes)
  assert '\n' not in str(error.value)


def test_a_checkpoints_metadata_gives_the_names_back():
  config = tiny.config(
    remat_policy=['context', 'mlp_wi'], remat_offload=['layer_input'], matmul_dtype='float8'
  )
  fields = json.loads(json.dumps(dataclasses.asdict(config)))
  assert T5Config.from_dict(fields) == config and hash(config)
  older = {
    name: value for name, value in fields.items() if name not in ('remat_offload', 'matmul_dtype')
  }
  assert T5Config.from_dict(older | {'remat_policy': 'minimal'}).remat_offload == ()
  assert config.for_inference() == tiny.config()
