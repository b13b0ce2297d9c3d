"""Patterns for the names of parameters."""

import numpy as np
import pytest

from t5x_lite import errors
from t5x_lite.models import selection, stacking

APART = {
  'encoder': {
    'layers_0': {'wi': np.zeros((3, 4)), 'norm': np.zeros(3)},
    'layers_1': {'wi': np.ones((3, 4)), 'norm': np.ones(3)},
    'encoder_norm': np.zeros(3),
  },
  'table': np.zeros((5, 3)),
}
SCANNED = stacking.stack_layers(APART)


@pytest.mark.parametrize(
  ('pattern', 'scanned', 'apart'),
  [
    ('.*/wi', {'encoder/layers/wi'}, {'encoder/layers_0/wi', 'encoder/layers_1/wi'}),
    ('encoder/layers/wi', {'encoder/layers/wi'}, {'encoder/layers_0/wi', 'encoder/layers_1/wi'}),
    (
      r'encoder/layers_\d/.*',
      {'encoder/layers/wi', 'encoder/layers/norm'},
      {f'encoder/layers_{i}/{name}' for i in (0, 1) for name in ('wi', 'norm')},
    ),
    ('.*norm', {'encoder/layers/norm', 'encoder/encoder_norm'}, None),
    ('wi|layers', set(), set()),
    ('table', {'table'}, {'table'}),
  ],
)
def test_a_pattern_means_the_same_in_both_forms_of_the_layers(pattern, scanned, apart):
  assert selection.choose(pattern, SCANNED) == scanned
  if apart is not None:
    assert selection.choose(pattern, APART) == apart


def test_one_layer_can_be_chosen_where_layers_are_apart_only():
  assert selection.choose('encoder/layers_1/wi', APART) == {'encoder/layers_1/wi'}
  message = 'layers_1/wi, but not all 2 layers of encoder/layers/wi, .* SCAN_LAYERS=False'
  with pytest.raises(errors.UserError, match=message):
    selection.choose('encoder/layers_1/wi', SCANNED)


def test_what_is_split_is_joined_again():
  chosen, others = selection.split(SCANNED, {'table', 'encoder/layers/wi'})
  assert chosen.keys() == {'table', 'encoder'} and others['encoder'].keys() == {
    'layers',
    'encoder_norm',
  }
  joined = selection.join(chosen, others)
  assert joined['encoder']['layers']['wi'] is SCANNED['encoder']['layers']['wi']
  assert selection.choose('.*', joined) == selection.choose('.*', SCANNED)
  assert selection.split(SCANNED, ()) == ({}, SCANNED)


def test_names_are_listed_without_the_numbers_of_layers():
  listed = 'encoder/encoder_norm, encoder/layers/norm, encoder/layers/wi, table'
  assert selection.listed(APART) == selection.listed(SCANNED) == listed
