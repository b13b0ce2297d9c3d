"""What names and shapes tell of a model, and which axis is whose in Adafactor's slots."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import t5x_writing
from etils import epath
from known_state import CONFIG, GRADIENTS, PARAMS

from t5x_lite import errors, sharding
from t5x_lite.checkpoints import foreign, huggingface, layout, t5x
from t5x_lite.models import architectures, encoder_decoder, stacking
from t5x_lite.training import optimizers, schedules
from t5x_lite.training import state as training_state

SHAPES = {name: array.shape for name, array in PARAMS.items()}


@pytest.mark.parametrize('variant', ['t5_1_0', 't5_1_1'])
def test_the_model_is_the_one_that_hugging_face_says(shared_data, variant):
  weights = huggingface.open_folder(shared_data / 'golden' / 'hf_tiny' / variant)
  assert foreign.model_of(weights.shapes) == weights.model


def test_the_model_has_as_many_layers_as_each_stack_has():
  assert foreign.model_of(SHAPES) == dataclasses.replace(CONFIG, dtype='bfloat16')


def test_a_table_in_every_layer_is_a_position_scheme_of_its_own():
  arrays = t5x_writing.with_a_table_in_every_layer(PARAMS)
  shapes = {name: array.shape for name, array in arrays.items()}
  model = foreign.model_of(shapes)
  assert model.position_scheme == 'relative_bias_per_layer'
  module = architectures.create(dataclasses.replace(model, scan_layers=False))
  expected = layout.flatten(training_state.param_shapes(module))
  assert shapes == {name: leaf.shape for name, leaf in expected.items()}


def test_arrays_of_something_else_are_refused():
  without_bias = {name: shape for name, shape in SHAPES.items() if 'decoder/relpos' not in name}
  with pytest.raises(
    errors.UserError, match='there is no matrix decoder/relpos_bias/rel_embedding'
  ):
    foreign.model_of(without_bias)
  with pytest.raises(
    errors.UserError, match='there is no matrix token_embedder/embedding, encoder/'
  ):
    foreign.model_of({'dense/kernel': (2, 2)})
  with pytest.raises(errors.UserError, match='the 128 columns.*not divisible by the 3 heads'):
    foreign.model_of(SHAPES | {'encoder/relpos_bias/rel_embedding': (3, 32)})


@pytest.mark.parametrize('shape', [(128, 256), (256, 128), (128, 128)])
def test_the_axis_of_v_row_is_that_of_optax(shape):
  squared = np.random.default_rng(0).integers(1, 10, shape).astype(np.float32)
  optimizer = optax.scale_by_factored_rms()
  params = {'kernel': np.sqrt(squared)}
  _, state = optimizer.update(params, optimizer.init(params), params)
  axis = foreign.v_row_axis(shape)
  np.testing.assert_allclose(state.v_row['kernel'], squared.mean(axis=1 - axis), rtol=1e-6)
  np.testing.assert_allclose(state.v_col['kernel'], squared.mean(axis=axis), rtol=1e-6)


def abstract_state(optimizer, **changes):
  model = encoder_decoder.T5(dataclasses.replace(CONFIG, **changes))
  mesh = sharding.make_mesh(sharding.fsdp_tensor())
  return training_state.abstract_state(model, optimizer, mesh, sharding.RULES)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_a_run_of_t5x_goes_on_with_its_adafactor_state(tmp_path, scan_layers):
  state = t5x_writing.train_state(PARAMS, GRADIENTS, 7, CONFIG)
  weights = t5x.open_checkpoint(epath.Path(t5x_writing.msgpack_file(state, tmp_path)))
  optimizer = optimizers.adafactor(schedules.constant(1e-3))
  abstract = abstract_state(optimizer, scan_layers=scan_layers)
  restored = weights.restore_state(abstract)
  assert jax.tree.structure(restored) == jax.tree.structure(abstract)
  assert restored.step == 7 and restored.step.dtype == np.int32

  # The same parameters and the same state, made by our optimizer itself.
  params, grads = (
    stacking.stack_layers(layout.unflatten(leaves)) if scan_layers else layout.unflatten(leaves)
    for leaves in (PARAMS, GRADIENTS)
  )
  _, expected = optimizer.update(grads, optimizer.init(params), params)
  expected = layout.flatten(expected)
  for name, leaf in layout.flatten(restored.opt_state).items():
    if name.endswith('count'):
      assert leaf == 7
    elif leaf.shape != (1,):
      np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, err_msg=name)
  jax.tree.map(np.testing.assert_array_equal, restored.params, params)


def abstract_state_of(params, optimizer):
  """The TrainState of some parameters, on one device."""
  state = training_state.TrainState(
    np.zeros((), np.int32), params, jax.eval_shape(optimizer.init, params)
  )
  one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device), state)


def test_second_moments_that_are_factored_there_and_not_here_are_multiplied_out():
  rng = np.random.default_rng(0)
  rows, columns = rng.uniform(1, 2, (2, 8)).astype(np.float32)
  squared = np.outer(rows, columns)[:, :6]  # Of rank one, so that its factors hold all of it.
  for kernel in (squared, squared.T):
    axis = foreign.v_row_axis(kernel.shape)
    arrays = {
      'kernel': kernel,
      'v_row/kernel': kernel.mean(axis=1 - axis),
      'v_col/kernel': kernel.mean(axis=axis),
    }
    slots = {name: array.shape for name, array in arrays.items() if name != 'kernel'}
    weights = foreign.Weights(
      'theirs', None, None, {'kernel': kernel.shape}, arrays.get, step=3, slots=slots
    )
    abstract = abstract_state_of({'kernel': kernel}, optimizers.adafactor(1e-3))
    restored = layout.flatten(weights.restore_state(abstract).opt_state)
    np.testing.assert_allclose(restored['1/v/kernel'], kernel, rtol=1e-6)


def test_the_state_of_another_optimizer_is_refused(tmp_path):
  state = t5x_writing.train_state(PARAMS, GRADIENTS, 7, CONFIG)
  weights = t5x.open_checkpoint(epath.Path(t5x_writing.msgpack_file(state, tmp_path)))
  for optimizer in (optimizers.adamw(1e-3), optimizers.adafactor(1e-3, momentum=0.9)):
    with pytest.raises(errors.UserError, match='another state than the optimizer of this run: it'):
      weights.restore_state(abstract_state(optimizer))
