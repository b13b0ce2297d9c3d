"""Checkpoints that hold the trained parameters alone, and the base they refer to."""

import dataclasses
import hashlib

import numpy as np
import pytest
import tiny

from t5x_lite import errors
from t5x_lite.checkpoints import bases, manager, origins, warm_start
from t5x_lite.models import stacking

RNG = np.random.default_rng(0)
BASE = {
  'encoder': {
    **{f'layers_{i}': {'wi': RNG.normal(size=(3, 4)).astype(np.float32)} for i in range(2)},
    'norm': np.ones(3, np.float32),
  },
  'table': RNG.normal(size=(5, 3)).astype(np.float32),
}
TRAINED = {'encoder': {'norm': np.full(3, 2, np.float32)}}
MODEL = dataclasses.asdict(tiny.config())
WHOLE = warm_start.WarmStart('base')


def save(folder, params, **metadata):
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    checkpoints.save(1, {'params': params}, metadata={'model': MODEL, **metadata})
  return folder


@pytest.fixture
def base(tmp_path):
  return save(tmp_path / 'base', BASE)


@pytest.fixture
def run(base, tmp_path):
  """A run on that base, with only its norm in the checkpoint."""
  frozen = {'table': BASE['table'], 'encoder': {'layers': stacking.stack_layers(BASE)['encoder']['layers']}}  # fmt: skip
  recorded = bases.describe(origins.open_origin(base), WHOLE, frozen)
  return save(tmp_path / 'run', TRAINED, base=recorded)


def test_the_hash_is_of_names_shapes_and_float32_values(base):
  lines = []
  for name, x in (
    ('encoder/layers_0/wi', BASE['encoder']['layers_0']['wi']),
    ('encoder/layers_1/wi', BASE['encoder']['layers_1']['wi']),
    ('encoder/norm', BASE['encoder']['norm']),
    ('table', BASE['table']),
  ):
    shape = 'x'.join(map(str, x.shape))
    lines.append(f'{name} {shape} {hashlib.sha256(x.tobytes()).hexdigest()}')
  expected = hashlib.sha256('\n'.join(lines).encode()).hexdigest()
  assert bases.content_hash(origins.open_origin(base)) == expected


def test_the_hash_does_not_depend_on_the_form_of_the_layers_but_on_every_bit(base, tmp_path):
  def hash_of(name, params):
    return bases.content_hash(origins.open_origin(save(tmp_path / name, params)))

  known = bases.content_hash(origins.open_origin(base))
  scanned = stacking.stack_layers(BASE)
  assert hash_of('scanned', scanned) == known
  scanned['encoder']['layers']['wi'][1, 2, 3] *= 1 + 2e-7
  assert hash_of('changed', scanned) != known
  assert hash_of('less', {'table': BASE['table']}) != known


def test_a_checkpoint_is_made_whole_by_its_base(run):
  origin = origins.open_origin(run)
  assert list(origin.shapes) == ['encoder/layers_0/wi', 'encoder/layers_1/wi', 'encoder/norm', 'table']  # fmt: skip
  np.testing.assert_array_equal(origin.read('encoder/norm'), TRAINED['encoder']['norm'])
  np.testing.assert_array_equal(
    origin.read('encoder/layers_1/wi'), BASE['encoder']['layers_1']['wi']
  )
  wanted = stacking.stack_layers({**BASE, 'encoder': {**BASE['encoder']}})
  wanted['encoder']['norm'] = np.zeros(3, np.float32)
  restored = origin.restore_params(wanted)
  np.testing.assert_array_equal(restored['encoder']['norm'], TRAINED['encoder']['norm'])
  np.testing.assert_array_equal(
    restored['encoder']['layers']['wi'], stacking.stack_layers(BASE)['encoder']['layers']['wi']
  )


def test_what_neither_the_checkpoint_nor_its_base_has_is_listed(run):
  wanted = {**BASE, 'encoder': {**BASE['encoder'], 'layers_2': BASE['encoder']['layers_1']}}
  with pytest.raises(errors.UserError, match='it lacks encoder/layers_2/wi'):
    origins.open_origin(run).restore_params(wanted)


def test_a_base_that_has_moved_is_found_by_its_new_path_and_another_is_refused(run, base, tmp_path):
  moved = tmp_path / 'moved'
  base.rename(moved)
  with pytest.raises(errors.UserError, match='trained parameters alone.*BASE_CHECKPOINT_PATH'):
    origins.open_origin(run)
  origin = origins.open_origin(run, moved)
  np.testing.assert_array_equal(origin.read('table'), BASE['table'])

  other = save(tmp_path / 'other', {**BASE, 'table': BASE['table'] + 1})
  with pytest.raises(errors.UserError) as error:
    origins.open_origin(run, other)
  hashes = [bases.content_hash(origins.open_origin(path)) for path in (moved, other)]
  assert all(each in str(error.value) for each in hashes)
  assert str(tmp_path / 'base' / 'checkpoints' / '1') in str(error.value)


def test_a_run_on_a_run_on_a_base_is_made_whole_by_both(run, tmp_path):
  middle = origins.open_origin(run)
  frozen = {'encoder': BASE['encoder']}
  trained = {'table': np.zeros((5, 3), np.float32)}
  top = save(tmp_path / 'top', trained, base=bases.describe(middle, WHOLE, frozen))
  origin = origins.open_origin(top)
  np.testing.assert_array_equal(origin.read('table'), trained['table'])
  np.testing.assert_array_equal(origin.read('encoder/norm'), TRAINED['encoder']['norm'])
  assert origin.shapes == middle.shapes


def test_a_base_for_a_checkpoint_that_has_none_is_refused(base):
  with pytest.raises(errors.UserError, match='BASE_CHECKPOINT_PATH=.* holds all parameters'):
    origins.open_origin(base, base)


def test_checkpoints_that_could_not_be_made_whole_are_refused(base):
  origin = origins.open_origin(base)
  with pytest.raises(errors.UserError, match='TRAINABLE_PARAMETERS takes in all'):
    bases.describe(origin, WHOLE, {})
  with pytest.raises(errors.UserError, match='needs a base .* INITIAL_CHECKPOINT_PATH'):
    bases.describe(None, WHOLE, BASE)
  for frozen in ({'lora_a': np.ones(2)}, {'table': np.ones((6, 3))}):
    with pytest.raises(errors.UserError, match=f'would lose {next(iter(frozen))} '):
      bases.describe(origin, WHOLE, frozen)
  for changes in ({'assignment_map': (('table', None),)}, {'grow_vocabulary': True}):
    with pytest.raises(errors.UserError, match='refers to the base as it is, but ASSIGNMENT_MAP'):
      bases.describe(origin, warm_start.WarmStart('base', **changes), BASE)


def test_a_resumed_run_trains_and_keeps_what_it_did():
  run = {'trainable_parameters': '.*/scale', 'checkpoint_parameters': 'trainable'}
  bases.check_resumed('run/1', run, run)
  all_of_it = {'trainable_parameters': '.*', 'checkpoint_parameters': 'all'}
  bases.check_resumed('run/1', {}, all_of_it)  # Of a checkpoint from before there was a choice.
  with pytest.raises(errors.UserError, match="TRAINABLE_PARAMETERS='.*/scale', .* has '.*'"):
    bases.check_resumed('run/1', run, all_of_it)
  with pytest.raises(errors.UserError, match="CHECKPOINT_PARAMETERS='trainable', .* has 'all'"):
    bases.check_resumed('run/1', run, {**run, 'checkpoint_parameters': 'all'})
