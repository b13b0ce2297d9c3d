"""How a checkpoint's arrays are named and mapped to those of a run."""

import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite.checkpoints import layout


def test_dictionaries_dataclasses_and_tuples_give_readable_names():
  params = {'encoder': {'layers_0': {'mlp': {'wi': {'kernel': jnp.zeros((2, 3))}}}}}
  state = {'params': params, 'opt_state': optax.adam(1e-3).init(params)}
  assert list(layout.flatten(state)) == [
    'opt_state/0/count',
    'opt_state/0/mu/encoder/layers_0/mlp/wi/kernel',
    'opt_state/0/nu/encoder/layers_0/mlp/wi/kernel',
    'params/encoder/layers_0/mlp/wi/kernel',
  ]


def test_unflatten_and_rebuild_undo_flatten():
  tree = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
  assert layout.unflatten(layout.flatten(tree)) == tree
  optimizer_state = optax.adam(1e-3).init({'w': np.ones(2)})
  doubled = {name: 2 * leaf for name, leaf in layout.flatten(optimizer_state).items()}
  rebuilt = layout.rebuild(optimizer_state, doubled)
  assert isinstance(rebuilt[0], optax.ScaleByAdamState)


def test_equal_forms_are_planned_name_by_name():
  shapes = {'encoder/layers/wi': (2, 3), 'embedding': (4,)}
  assert layout.plan(shapes, shapes) == {
    name: layout.Origin((name,), shape) for name, shape in shapes.items()
  }


def test_layers_apart_are_stacked_in_the_order_of_their_numbers():
  saved = {f'encoder/layers_{i}/wi': (3,) for i in [10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9]}
  origins = layout.plan(saved, {'encoder/layers/wi': (11, 3)})
  names = tuple(f'encoder/layers_{i}/wi' for i in range(11))
  assert origins == {'encoder/layers/wi': layout.Origin(names, (11, 3), stacked=True)}


def test_scanned_layers_are_taken_apart():
  saved = {'decoder/layers/wi': (2, 3)}
  wanted = {'decoder/layers_0/wi': (3,), 'decoder/layers_1/wi': (3,)}
  assert layout.plan(saved, wanted) == {
    'decoder/layers_0/wi': layout.Origin(('decoder/layers/wi',), (3,), index=0),
    'decoder/layers_1/wi': layout.Origin(('decoder/layers/wi',), (3,), index=1),
  }


def test_each_stack_keeps_the_form_it_is_wanted_in():
  saved = {'encoder/layers/wi': (1, 3), 'decoder/layers/wi': (1, 3)}
  wanted = {'encoder/layers/wi': (1, 3), 'decoder/layers_0/wi': (3,)}
  origins = layout.plan(saved, wanted)
  assert origins['encoder/layers/wi'].index is None
  assert origins['decoder/layers_0/wi'].index == 0


def test_placeholders_of_unused_optimizer_slots_gain_no_layer_axis():
  apart = {'v/stack/layers_0/wi': (1,), 'v/stack/layers_1/wi': (1,)}
  scanned = {'v/stack/layers/wi': (1,)}
  assert layout.differences(layout.plan(apart, scanned), scanned) == []
  assert layout.differences(layout.plan(scanned, apart), apart) == []
  assert not layout.plan(apart, scanned)['v/stack/layers/wi'].stacked


def test_placeholders_kept_for_each_layer_are_stacked():
  apart = {'v/stack/layers_0/wi': (1,), 'v/stack/layers_1/wi': (1,)}
  scanned = {'v/stack/layers/wi': (2, 1)}
  assert layout.differences(layout.plan(apart, scanned), scanned) == []
  assert layout.differences(layout.plan(scanned, apart), apart) == []


def test_a_vector_of_one_layer_is_told_from_a_placeholder():
  apart, scanned = {'stack/layers_0/scale': (1,)}, {'stack/layers/scale': (1, 1)}
  assert layout.plan(apart, scanned)['stack/layers/scale'].stacked
  assert layout.plan(scanned, apart)['stack/layers_0/scale'].index == 0


def test_differences_name_missing_unexpected_and_reshaped_arrays():
  saved = {'params/encoder/layers_0/mlp/wi/kernel': (4, 8), 'params/embedding': (16, 4)}
  wanted = {'params/encoder/layers_0/mlp/wi_0/kernel': (4, 8), 'params/embedding': (32, 4)}
  assert layout.differences(layout.plan(saved, wanted), wanted) == [
    'it lacks encoder/layers_0/mlp/wi_0/kernel',
    'this run has no encoder/layers_0/mlp/wi/kernel',
    'shapes in the checkpoint against this run: embedding [16, 4] against [32, 4]',
  ]


def test_a_different_number_of_layers_shows_whatever_the_form():
  apart = {f'encoder/layers_{i}/wi': (3,) for i in range(2)}
  deeper = {f'encoder/layers_{i}/wi': (3,) for i in range(3)}
  scanned_deeper = {'encoder/layers/wi': (3, 3)}
  assert layout.differences(layout.plan(apart, deeper), deeper) == ['it lacks encoder/layers_2/wi']
  assert layout.differences(layout.plan(apart, scanned_deeper), scanned_deeper) == [
    'shapes in the checkpoint against this run: encoder/layers/wi [2, 3] against [3, 3]'
  ]
  assert layout.differences(layout.plan(scanned_deeper, apart), apart) == [
    'this run has no encoder/layers_2/wi'
  ]


def test_long_lists_of_differences_end_with_a_count():
  wanted = {f'w{i}': (1,) for i in range(10)}
  assert layout.differences({}, wanted) == ['it lacks w0, w1, w2, w3 and 6 more']


def test_layers_missing_in_the_middle_are_not_stacked():
  saved = {'encoder/layers_0/wi': (3,), 'encoder/layers_2/wi': (3,)}
  wanted = {'encoder/layers/wi': (2, 3)}
  assert layout.differences(layout.plan(saved, wanted), wanted)
