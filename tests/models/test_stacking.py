"""The stacked and the unrolled form of a parameter tree."""

import jax.numpy as jnp
import numpy as np

from t5x_lite.models import stacking


def test_stacking_puts_layers_in_the_order_of_their_numbers():
  numbered = {f'layers_{i}': {'scale': np.array([i])} for i in [10, 3, 0, 1, 2, 9, 8, 7, 6, 5, 4]}
  stacked = stacking.stack_layers({'encoder': {**numbered, 'norm': np.array([7])}})
  assert stacked['encoder']['layers']['scale'].tolist() == [[i] for i in range(11)]
  assert stacked['encoder']['norm'].tolist() == [7]
  assert set(stacked['encoder']) == {'layers', 'norm'}


def test_unstacking_undoes_stacking():
  tree = {
    'embedding': np.ones((2, 3)),
    'encoder': {f'layers_{i}': {'mlp': {'wi': np.full((2, 2), i)}} for i in range(3)},
    'decoder': {f'layers_{i}': {'mlp': {'wi': np.full((2, 2), 9 + i)}} for i in range(2)},
  }
  back = stacking.unstack_layers(stacking.stack_layers(tree))
  np.testing.assert_equal(back, tree)


def test_each_form_passes_through_its_own_function_unchanged():
  stacked = {'layers': {'scale': np.ones((2, 3))}}
  unrolled = {'layers_0': {'scale': np.ones(3)}, 'layers_1': {'scale': np.ones(3)}}
  np.testing.assert_equal(stacking.stack_layers(stacked), stacked)
  np.testing.assert_equal(stacking.unstack_layers(unrolled), unrolled)


def test_numpy_arrays_stay_on_the_host():
  host = {'layers_0': {'scale': np.ones(3)}}
  device = {'layers_0': {'scale': jnp.ones(3)}}
  assert isinstance(stacking.stack_layers(host)['layers']['scale'], np.ndarray)
  assert isinstance(stacking.stack_layers(device)['layers']['scale'], jnp.ndarray)


def test_is_stacked_asks_for_the_name_layers_and_no_other():
  assert stacking.is_stacked(('encoder', 'layers', 'mlp'))
  assert not stacking.is_stacked(('encoder', 'layers_0', 'mlp'))
