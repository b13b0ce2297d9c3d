"""What a new run takes from a checkpoint: all that its rules say, nothing by accident."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import tiny

from t5x_lite import errors, sharding
from t5x_lite.checkpoints import layout, manager, origins, warm_start
from t5x_lite.models import encoder_decoder
from t5x_lite.training import state as training_state

CONFIG = tiny.config(num_encoder_layers=3, num_decoder_layers=3)
MESH = sharding.make_mesh(sharding.data_parallel())
OUTPUT = 'decoder/logits_dense/kernel'
EMBEDDING = 'token_embedder/embedding'


def abstract_of(config):
  return training_state.abstract_params(encoder_decoder.T5(config), MESH, sharding.RULES)


def random_leaves(abstract, seed):
  rng = np.random.default_rng(seed)
  shapes = layout.flatten(abstract)
  return {n: rng.normal(size=shapes[n].shape).astype(np.float32) for n in sorted(shapes)}


def checkpoint(folder, scan_layers):
  config = dataclasses.replace(CONFIG, scan_layers=scan_layers)
  params = layout.unflatten(random_leaves(abstract_of(config), seed=1))
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    metadata = {'model': dataclasses.asdict(config), 'vocabulary': None}
    checkpoints.save(3, {'params': params}, metadata=metadata)
  return origins.open_origin(folder)


@pytest.fixture(scope='module')
def origin(tmp_path_factory):
  """A checkpoint with the layers scanned."""
  return checkpoint(tmp_path_factory.mktemp('scanned'), scan_layers=True)


def start(origin, scan_layers=True, changes=None, **settings):
  """Returns (parameters, new ones, what was said), the layers apart."""
  config = dataclasses.replace(CONFIG, scan_layers=scan_layers, **(changes or {}))
  abstract = abstract_of(config)
  new = random_leaves(abstract, seed=2)
  params, said = warm_start.restore_params(
    warm_start.WarmStart(path='x', **settings),
    origin,
    abstract,
    lambda names: {name: new[name] for name in names},
  )
  assert jax.tree.structure(params) == jax.tree.structure(abstract)
  return apart(layout.flatten(params)), apart(new), said


def apart(leaves):
  pieces = layout.apart({name: leaf.shape for name, leaf in leaves.items()})
  return {
    name: np.asarray(leaves[piece.names[0]] if piece.index is None else leaves[piece.names[0]][piece.index])
    for name, piece in pieces.items()
  }  # fmt: skip


def assert_comes_from(params, sources, origin, new):
  """Compares every parameter with the one it should be: `sources` holds the exceptions."""
  for name, array in params.items():
    source = sources.get(name, name)
    expected = new[name] if source is None else origin.read(source)
    np.testing.assert_array_equal(array, expected, err_msg=name)


def test_without_rules_everything_is_taken(origin):
  params, new, said = start(origin)
  assert_comes_from(params, {}, origin, new)
  assert not said


@pytest.mark.parametrize('scanned_there', [False, True])
@pytest.mark.parametrize('scan_layers', [False, True])
def test_dropped_parameters_are_new_and_named(tmp_path, scan_layers, scanned_there):
  origin = checkpoint(tmp_path, scanned_there)
  rules = ((OUTPUT, None), (r'encoder/layers_[12]/mlp/.*', None))
  params, new, said = start(origin, scan_layers, assignment_map=rules)
  dropped = [n for n in params if n == OUTPUT or re.match('encoder/layers_[12]/mlp', n)]
  assert len(dropped) == 7
  assert_comes_from(params, dict.fromkeys(dropped), origin, new)
  assert f'new: {OUTPUT}' in said
  assert 'new: encoder/layers_*/mlp/wo/kernel (2 layers)' in said
  assert f'not taken from the checkpoint: {OUTPUT}' in said


def test_parameters_are_mapped_by_groups_of_their_names(origin):
  swap = ((r'decoder/layers_0/(.*)', r'decoder/layers_2/\1'),)
  params, new, said = start(origin, assignment_map=swap)
  sources = {
    n: n.replace('layers_0', 'layers_2') for n in params if n.startswith('decoder/layers_0/')
  }
  assert_comes_from(params, sources, origin, new)
  norm = 'pre_mlp_layer_norm/scale'
  assert f'taken: decoder/layers_0/{norm} from decoder/layers_2/{norm}' in said


def test_a_shallower_model_leaves_layers_in_the_checkpoint(origin):
  with pytest.raises(errors.UserError, match='this run has no encoder/layers_2'):
    start(origin, False, changes={'num_encoder_layers': 2}, assignment_map=((OUTPUT, None),))
  rules = (('encoder/layers_2/.*', None),)
  params, new, said = start(origin, changes={'num_encoder_layers': 2}, assignment_map=rules)
  assert 'encoder/layers_2/mlp/wo/kernel' not in params
  assert_comes_from(params, {}, origin, new)
  assert 'not taken from the checkpoint: encoder/layers_2/mlp/wo/kernel' in said


def test_a_deeper_model_takes_its_layers_from_those_there_are(origin):
  rules = ((r'encoder/layers_3/(.*)', r'encoder/layers_2/\1'), (r'encoder/layers_4/.*', None))
  params, new, _ = start(origin, changes={'num_encoder_layers': 5}, assignment_map=rules)
  sources = {
    n: n.replace('layers_3', 'layers_2') for n in params if n.startswith('encoder/layers_3/')
  }
  sources |= dict.fromkeys(n for n in params if n.startswith('encoder/layers_4/'))
  assert_comes_from(params, sources, origin, new)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_a_larger_vocabulary_keeps_the_old_rows(origin, scan_layers):
  with pytest.raises(errors.UserError, match=r'embedding \[32, 8\] against \[40, 8\]'):
    start(origin, changes={'vocab_size': 40})
  params, new, said = start(origin, scan_layers, changes={'vocab_size': 40}, grow_vocabulary=True)
  np.testing.assert_array_equal(params[EMBEDDING][:32], origin.read(EMBEDDING))
  np.testing.assert_array_equal(params[EMBEDDING][32:], new[EMBEDDING][32:])
  np.testing.assert_array_equal(params[OUTPUT][:, :32], origin.read(OUTPUT))
  np.testing.assert_array_equal(params[OUTPUT][:, 32:], new[OUTPUT][:, 32:])
  others = {name: array for name, array in params.items() if name not in (EMBEDDING, OUTPUT)}
  assert_comes_from(others, {}, origin, new)
  assert f'{EMBEDDING}: 32 ids of the checkpoint and 8 new ones' in said


def test_a_smaller_vocabulary_is_refused(origin):
  with pytest.raises(errors.UserError, match=r'embedding \[32, 8\] against \[24, 8\]'):
    start(origin, changes={'vocab_size': 24}, grow_vocabulary=True)


@pytest.mark.parametrize(
  ('rules', 'message'),
  [
    ((('no/such/name', None),), r"has \('no/such/name', None\), which does nothing"),
    (
      ((OUTPUT, None), ('decoder/logits.*', None)),
      r"has \('decoder/logits\.\*', None\), which does nothing",
    ),
    (((OUTPUT, 'decoder/other'),), f'takes {OUTPUT} from decoder/other, which .*3 does not have'),
    (((OUTPUT, r'\1'),), 'invalid group reference'),
  ],
)
def test_a_rule_that_cannot_be_followed_is_an_error(origin, rules, message):
  with pytest.raises(errors.UserError, match=message):
    start(origin, assignment_map=rules)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'assignment_map': ('decoder/.*', None)}, 'must be pairs of a pattern and a name or None'),
    ({'assignment_map': (('decoder/(', None),)}, 'which is no regular expression'),
    ({'path': None, 'grow_vocabulary': True}, 'GROW_VOCABULARY=True needs an INITIAL_CHECKPOINT'),
    (
      {'restore_optimizer_state': True, 'grow_vocabulary': True},
      'GROW_VOCABULARY=True and RESTORE_OPTIMIZER_STATE=True exclude each other',
    ),
  ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
  with pytest.raises(errors.UserError, match=message):
    warm_start.WarmStart(**{'path': 'x', **settings})
