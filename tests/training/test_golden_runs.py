"""The ten steps of T5X's own trainer and Adafactor, repeated from the same parameters."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from t5x_lite import losses
from t5x_lite.models import encoder_decoder, stacking
from t5x_lite.models.config import T5Config
from t5x_lite.training import optimizers, schedules, step
from t5x_lite.training.state import TrainState

CONSTANT = schedules.constant(0.01)
RSQRT = schedules.inverse_square_root(1.0, 5)
T5_1_0 = {'mlp_activations': ('relu',), 'logits_via_embedding': True}

# run -> initial parameters, schedule, changes of the configuration, label smoothing
RUNS = {
  't5_1_1_constant_lr': ('t5_1_1_constant_lr', CONSTANT, {}, 0.0),
  't5_1_0_label_smoothing': ('t5_1_0_label_smoothing', CONSTANT, T5_1_0, 0.1),
  't5_1_1_rsqrt': ('t5_1_1_constant_lr', RSQRT, {}, 0.0),
}


def read_params(path):
  with np.load(path) as arrays:
    return traverse_util.unflatten_dict(dict(arrays), sep='/')


def read_batches(path):
  with np.load(path) as arrays:
    flat = {tuple(name.split('/')): array for name, array in arrays.items()}
  nested = traverse_util.unflatten_dict(flat)
  return [nested[str(i)] for i in range(len(nested))]


def repeat_run(golden, name, *, scan_layers=False, num_microbatches=1, perturb=lambda x: x):
  """Returns (losses per token of the ten steps, final unstacked parameters)."""
  expected = json.loads((golden / 'expected.json').read_text())
  initial, schedule, changes, label_smoothing = RUNS[name]
  config = T5Config(**{**expected['config'], **changes}, scan_layers=scan_layers)
  params = jax.tree.map(perturb, read_params(golden / f'{initial}.params_init.npz'))
  if scan_layers:
    params = stacking.stack_layers(params)
  optimizer = optimizers.adafactor(schedule)
  train_step = jax.jit(
    functools.partial(
      step.train_step,
      model=encoder_decoder.T5(config),
      optimizer=optimizer,
      loss_config=losses.LossConfig(
        z_loss=1e-4, label_smoothing=label_smoothing, normalization='sum', num_chunks=5
      ),
      schedule=schedule,
      seed=0,
      num_microbatches=num_microbatches,
    )
  )
  state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
  measured = []
  for batch in read_batches(golden / 'batches.npz'):
    state, metrics = train_step(state, batch)
    measured.append(float(metrics['loss']))
  return measured, stacking.unstack_layers(state.params)


def golden_losses(golden, name):
  expected = json.loads((golden / 'expected.json').read_text())
  return expected['runs'][name]['loss_per_nonpadding_target_token']


@pytest.mark.parametrize(('scan_layers', 'num_microbatches'), [(False, 1), (True, 1), (True, 2)])
@pytest.mark.parametrize('name', ['t5_1_1_constant_lr', 't5_1_0_label_smoothing'])
def test_ten_steps_repeat_the_losses_and_parameters_of_t5x(
  shared_data, name, scan_layers, num_microbatches
):
  golden = shared_data / 'golden' / 't5x_train'
  measured, params = repeat_run(
    golden, name, scan_layers=scan_layers, num_microbatches=num_microbatches
  )
  np.testing.assert_allclose(measured, golden_losses(golden, name), rtol=2e-6)
  final = read_params(golden / f'{name}.params_final.npz')
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, final)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_rsqrt_run_repeats_t5x_until_rounding_decides(shared_data, scan_layers):
  """Its learning rate of 0.45 makes the run chaotic, so its end is T5X's rounding, not its maths.

  Moving every initial parameter by one part in 10^7, less than a float32 can resolve, changes
  the sixth loss by more than any step up to the fifth differs from T5X.
  """
  golden = shared_data / 'golden' / 't5x_train'
  expected = golden_losses(golden, 't5_1_1_rsqrt')
  measured, _ = repeat_run(golden, 't5_1_1_rsqrt', scan_layers=scan_layers)
  np.testing.assert_allclose(measured[:3], expected[:3], rtol=2e-6)
  np.testing.assert_allclose(measured[3:5], expected[3:5], rtol=1e-4)

  noise = np.random.default_rng(0)
  perturbed, _ = repeat_run(
    golden,
    't5_1_1_rsqrt',
    scan_layers=scan_layers,
    perturb=lambda x: x * (1 + 1e-7 * noise.standard_normal(x.shape)).astype(np.float32),
  )
  np.testing.assert_allclose(perturbed[:3], expected[:3], rtol=2e-6)
  assert abs(perturbed[5] / measured[5] - 1) > 1e-3
