"""Every architecture with every position scheme: training, decoding, packing, forms of the stacks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from t5x_lite import losses
from t5x_lite.models import architectures, stacking
from t5x_lite.models.config import ARCHITECTURES, IA3, POSITION_SCHEMES, LoRA, Prompt
from t5x_lite.training import step as training_step

PAIRINGS = [(a, s) for a in ARCHITECTURES for s in POSITION_SCHEMES]
ADAPTERS = [LoRA(rank=2), IA3(), Prompt(3, 'uniform')]
EXAMPLES = [([5, 9, 1], [7, 7, 4, 1]), ([4, 6, 8, 3, 1], [3, 9, 1]), ([6, 2, 1], [12, 6, 2, 8, 1])]


def config_of(architecture, scheme, num_layers=2, **changes):
  with_encoder = architecture.endswith('encoder_decoder')
  return tiny.config(
    architecture=architecture,
    position_scheme=scheme,
    num_encoder_layers=num_layers if with_encoder else 0,
    num_decoder_layers=num_layers,
    max_position_embeddings=32 if scheme == 'learned' else None,
    **changes,
  )


def batch_of(config, examples, inputs_length=6, targets_length=8):
  """Lays out (inputs, targets) as the model wants them, one example in a row."""
  if config.has_encoder:
    rows = [
      (inputs, [0, *targets[:-1]], targets, [1] * len(targets)) for inputs, targets in examples
    ]
    names = ['encoder_input_tokens']
    lengths = [inputs_length] + 3 * [targets_length]
  else:
    rows = []
    for inputs, targets in examples:
      whole = [*inputs, *targets]
      weights = [0] * len(inputs) + [1] * len(targets)
      rows.append(([1] * (len(inputs) + 1), [0, *whole[:-1]], whole, weights))
    names = ['decoder_causal_attention']
    lengths = 4 * [inputs_length + targets_length]
  names += ['decoder_input_tokens', 'decoder_target_tokens', 'decoder_loss_weights']
  batch = {n: np.zeros((len(rows), k), np.int32) for n, k in zip(names, lengths, strict=True)}
  for i, row in enumerate(rows):
    for name, values in zip(names, row, strict=True):
      batch[name][i, : len(values)] = values
  return batch


def packed_batch_of(config, examples):
  """Lays out examples one behind the other in one row, as seqio packs them."""
  rows = [batch_of(config, [example], len(example[0]), len(example[1])) for example in examples]
  packed = {name: np.concatenate([row[name] for row in rows], axis=1) for name in rows[0]}
  for side in ('encoder', 'decoder') if config.has_encoder else ('decoder',):
    lengths = [row[f'{side}_input_tokens'].shape[1] for row in rows]
    segments = [np.full(length, i + 1) for i, length in enumerate(lengths)]
    packed[f'{side}_segment_ids'] = np.concatenate(segments)[None]
    packed[f'{side}_positions'] = np.concatenate([np.arange(n) for n in lengths])[None]
  return packed


@pytest.mark.parametrize('architecture, scheme', PAIRINGS)
def test_training_lowers_the_loss(architecture, scheme):
  config = config_of(architecture, scheme, num_layers=1, scan_layers=False)
  model = architectures.create(config)
  batch = batch_of(config, EXAMPLES)
  optimizer = optax.adam(3e-2)

  @jax.jit
  def train(params):
    def loss(params):
      logits = model.apply({'params': params}, batch)
      each, _ = losses.cross_entropy(logits, batch['decoder_target_tokens'])
      return jnp.mean(each, where=batch['decoder_loss_weights'] > 0)

    def step(carry, _):
      params, state = carry
      value, gradient = jax.value_and_grad(loss)(params)
      updates, state = optimizer.update(gradient, state)
      return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, (params, optimizer.init(params)), length=15)[1]

  values = train(tiny.params(config))
  assert values[-1] < 0.5 * values[0], values


@pytest.mark.parametrize(
  'config',
  [
    *(config_of(*pairing) for pairing in PAIRINGS),
    *(config_of('encoder_decoder', 'relative_bias', adapter=adapter) for adapter in ADAPTERS),
    *(config_of('prefix_language_model', 'rotary', adapter=adapter) for adapter in ADAPTERS[:2]),
  ],
  ids=lambda config: f'{config.architecture}-{config.position_scheme}-{config.adapter}',
)
def test_decoding_with_the_cache_gives_the_logits_of_teacher_forcing(config):
  """The former with its layers unrolled, the latter with scanned ones."""
  params = tiny.params(config)
  batch = batch_of(config, EXAMPLES)
  inputs = np.zeros((3, 5), np.int32)
  for row, (tokens, _) in zip(inputs, EXAMPLES, strict=True):
    row[: len(tokens)] = tokens
  steps = 5  # The longest targets.
  targets = np.zeros((3, steps), np.int32)
  for row, (_, tokens) in zip(targets, EXAMPLES, strict=True):
    row[: len(tokens)] = tokens

  @jax.jit
  def both(params):
    whole = architectures.create(config).apply({'params': params}, batch)
    model, params = architectures.for_decoding(config, params)
    token, cache = model.apply({'params': params}, inputs, steps, method='start')
    decoded = []
    for i in range(steps):
      logits, cache = model.apply({'params': params}, token, cache, i, method='decode_step')
      decoded.append(logits[:, 0])
      token = targets[:, i : i + 1]
    return whole, jnp.stack(decoded, axis=1)

  whole, decoded = both(params)
  for row, (inputs, targets) in enumerate(EXAMPLES):
    first, length = 0 if config.has_encoder else len(inputs), len(targets)
    np.testing.assert_allclose(decoded[row, :length], whole[row, first : first + length], atol=2e-5)


@pytest.mark.parametrize('architecture', ['encoder_decoder', 'prefix_language_model'])
@pytest.mark.parametrize('scheme', POSITION_SCHEMES)
def test_packed_examples_do_not_see_each_other_and_count_positions_anew(architecture, scheme):
  config = config_of(architecture, scheme, num_layers=1, scan_layers=False)
  params = tiny.params(config)
  packed = packed_batch_of(config, EXAMPLES)
  model = architectures.create(config)
  alone, together = jax.jit(lambda *batches: [model.apply({'params': params}, x) for x in batches])(
    batch_of(config, EXAMPLES), packed
  )
  for row, (inputs, targets) in enumerate(EXAMPLES):
    length = len(targets) if config.has_encoder else len(inputs) + len(targets)
    here = packed['decoder_segment_ids'][0] == row + 1
    np.testing.assert_allclose(together[0, here], alone[row, :length], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  'architecture, scheme',
  [
    ('encoder_decoder', 'rotary'),
    ('shared_encoder_decoder', 'relative_bias_per_layer'),
    ('prefix_language_model', 'learned'),
  ],
)
def test_scan_and_remat_change_neither_loss_nor_gradient(architecture, scheme):
  config = config_of(architecture, scheme, remat_policy='minimal')
  batch = batch_of(config, EXAMPLES)

  def loss_and_gradient(config, params):
    model = architectures.create(config)

    def loss(params):
      return training_step.loss_sums(model, params, batch, losses.LossConfig(num_chunks=2))['loss']

    return jax.jit(jax.value_and_grad(loss))(params)

  params = tiny.params(config)
  loss, gradient = loss_and_gradient(config, params)
  unrolled = dataclasses.replace(config, scan_layers=False, remat_policy='none')
  expected, expected_gradient = loss_and_gradient(unrolled, stacking.unstack_layers(params))
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    stacking.unstack_layers(gradient),
    expected_gradient,
  )
