"""Meshes, rules, and the same training run on different meshes of eight virtual devices."""

import functools
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite import errors, losses, sharding
from t5x_lite.models import encoder_decoder, stacking
from t5x_lite.models.config import T5Config
from t5x_lite.training import optimizers, schedules, state, step

# Every axis divides by eight, no two axes of a matrix are alike, and Adafactor factors most.
CONFIG = {
  'vocab_size': 384,
  'emb_dim': 128,
  'num_heads': 8,
  'head_dim': 32,
  'mlp_dim': 512,
  'num_encoder_layers': 2,
  'num_decoder_layers': 2,
  'dtype': 'float32',
}
MESHES = {
  'data': sharding.data_parallel(),
  'fsdp': sharding.fsdp(),
  'mixed': sharding.MeshConfig(ici=(2, 2, 2)),
  'residual': sharding.MeshConfig(ici=(1, 4, 2), rules=sharding.divided_residual()),
}
SCHEDULE = schedules.constant(1e-2)
OPTIMIZER = optimizers.adafactor(SCHEDULE)


def test_minus_one_stands_for_what_is_left_of_the_devices():
  def shape(config):
    return tuple(sharding.make_mesh(config).shape.items())

  assert shape(sharding.data_parallel()) == (('data', 8), ('fsdp', 1), ('tensor', 1))
  assert shape(sharding.fsdp()) == (('data', 1), ('fsdp', 8), ('tensor', 1))
  assert shape(sharding.tensor()) == (('data', 1), ('fsdp', 1), ('tensor', 8))
  assert shape(sharding.fsdp_tensor()) == (('data', 1), ('fsdp', 4), ('tensor', 2))
  assert shape(sharding.fsdp_tensor(tensor=4)) == (('data', 1), ('fsdp', 2), ('tensor', 4))
  assert shape(sharding.MeshConfig(ici=[2, -1, 2])) == (('data', 2), ('fsdp', 2), ('tensor', 2))
  one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
  assert one.size == 1


@pytest.mark.parametrize(
  'config, message',
  [
    (sharding.MeshConfig(ici=(3, 1, 1)), r'ici=\(3, 1, 1\) does not fit the 8 devices there are'),
    (sharding.MeshConfig(ici=(-1, 3, 1)), r'ici=\(-1, 3, 1\) does not fit the 8 devices'),
    (sharding.MeshConfig(ici=(16, 1, -1)), r'ici=\(16, 1, -1\) does not fit the 8 devices'),
    (sharding.MeshConfig(ici=(-1, -1, 1)), 'at most one of them -1'),
    (sharding.MeshConfig(ici=(-1, 0, 1)), 'must give a positive size for each of'),
    (sharding.MeshConfig(ici=(-2, -4, 1)), 'must give a positive size for each of'),
    (sharding.MeshConfig(ici=(8, 1)), r"each of \('data', 'fsdp', 'tensor'\)"),
    (sharding.MeshConfig(dcn=(2, 1, 1)), r'dcn=\(2, 1, 1\) does not fit the 1 slices or hosts'),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused_naming_both_sides(config, message):
  with pytest.raises(errors.UserError, match=message):
    sharding.make_mesh(config)


@pytest.mark.parametrize('told_apart_by', ['slice_index', 'process_index'])
def test_the_data_centre_network_joins_slices_or_hosts(monkeypatch, told_apart_by):
  devices = [
    types.SimpleNamespace(
      id=i,
      **{'slice_index': 0, 'process_index': 0, told_apart_by: i // 4},
      platform='cpu',
      device_kind='x',
    )
    for i in range(8)
  ]
  monkeypatch.setattr(jax.sharding, 'Mesh', lambda array, names, axis_types: array)
  config = sharding.MeshConfig(ici=(1, 2, -1), dcn=(-1, 1, 1))
  array = sharding.make_mesh(config, devices)
  assert array.shape == (2, 2, 2)
  for part in range(2):
    assert {getattr(d, told_apart_by) for d in array[part].ravel()} == {part}


def test_a_rule_for_an_axis_that_no_mesh_has_is_refused():
  with pytest.raises(errors.UserError, match="'expert', .*'data', 'fsdp', 'tensor'"):
    sharding.MeshConfig(rules=(('mlp', ('tensor', 'expert')),))


def test_a_batch_that_does_not_divide_is_refused_naming_both_sides():
  mesh = sharding.make_mesh(MESHES['mixed'])
  sharding.check_batch_size(12, mesh)
  with pytest.raises(errors.UserError) as error:
    sharding.check_batch_size(12, sharding.make_mesh(MESHES['data']))
  assert str(error.value) == (
    "BATCH_SIZE=12 is not divisible by the 8 devices on mesh axes ('data', 'fsdp')"
  )
  with pytest.raises(errors.UserError, match='4 devices .* times 2 microbatches'):
    sharding.check_batch_size(12, mesh, num_microbatches=2)


def model_of(scan_layers=True, **changes):
  return encoder_decoder.T5(T5Config(**CONFIG | changes, scan_layers=scan_layers))


def abstract(config, scan_layers=True):
  mesh = sharding.make_mesh(config)
  return state.abstract_state(model_of(scan_layers), OPTIMIZER, mesh, config.rules)


def test_a_parameter_that_does_not_divide_is_refused_naming_both_sides():
  mesh = sharding.make_mesh(sharding.fsdp())
  message = 'axis of 12, which does not divide by the 8 devices on mesh axes .*fsdp'
  with pytest.raises(errors.UserError, match=message):
    state.abstract_params(model_of(emb_dim=12), mesh, sharding.RULES)


def test_parameters_lie_as_the_rules_say():
  params = abstract(MESHES['mixed']).params

  def spec(tree):
    return tuple(tree.sharding.spec)

  layers = params['decoder']['layers']
  assert spec(params['token_embedder']['embedding']) == (('tensor', 'fsdp'), None)
  assert spec(params['decoder']['logits_dense']['kernel']) == (None, ('tensor', 'fsdp'))
  assert spec(params['decoder']['relpos_bias']['rel_embedding']) == ('tensor', None)
  assert spec(layers['self_attention']['query']['kernel']) == (None, 'fsdp', 'tensor')
  assert spec(layers['self_attention']['out']['kernel']) == (None, 'tensor', 'fsdp')
  assert spec(layers['mlp']['wi_0']['kernel']) == (None, 'fsdp', 'tensor')
  assert spec(layers['mlp']['wo']['kernel']) == (None, 'tensor', 'fsdp')
  assert spec(layers['pre_mlp_layer_norm']['scale']) == (None, 'fsdp')


def test_a_rule_that_does_not_divide_is_passed_over_for_the_next():
  model = model_of(vocab_size=386)  # 2 x 193.
  mesh = sharding.make_mesh(MESHES['mixed'])
  params = state.abstract_params(model, mesh, sharding.RULES)
  assert tuple(params['token_embedder']['embedding'].sharding.spec) == ('tensor', 'fsdp')
  assert tuple(params['decoder']['logits_dense']['kernel'].sharding.spec) == ('fsdp', 'tensor')
  with pytest.raises(errors.UserError, match=r"axis of 386, .* the 8 devices on .*\('tensor',\)"):
    state.abstract_params(model, sharding.make_mesh(sharding.tensor()), sharding.RULES)


def test_a_mesh_on_which_a_rule_may_be_computed_wrongly_is_refused():
  config = sharding.MeshConfig(ici=(2, 2, 2), rules=sharding.divided_residual())
  with pytest.raises(errors.UserError, match="'embed' divided by 'tensor' .* make data or fsdp 1"):
    sharding.make_mesh(config)


def test_optimizer_state_follows_its_parameter_less_the_axis_it_lacks():
  mesh = sharding.make_mesh(MESHES['mixed'])
  params = {'layers': {'wi': jax.ShapeDtypeStruct((2, 128, 512), jnp.float32)}}
  shardings = {'layers': {'wi': NamedSharding(mesh, PartitionSpec(None, 'fsdp', 'tensor'))}}

  def specs(optimizer):
    opt_state = jax.eval_shape(optimizer.init, params)
    tree = sharding.optimizer_shardings(opt_state, params, shardings, mesh)
    return {
      '/'.join(sharding.names(path)): tuple(leaf.spec)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

  assert specs(optax.adam(1e-3)) == {
    '0/count': (),
    '0/mu/layers/wi': (None, 'fsdp', 'tensor'),
    '0/nu/layers/wi': (None, 'fsdp', 'tensor'),
  }
  factored = specs(optax.scale_by_factored_rms())
  assert factored == {
    'count': (),
    'v_row/layers/wi': (None, 'fsdp'),
    'v_col/layers/wi': (None, 'tensor'),
    'v/layers/wi': (),
  }


def test_under_fsdp_nothing_large_is_replicated():
  mesh_state = abstract(MESHES['fsdp'])
  large = [x for x in jax.tree.leaves(mesh_state) if x.size >= 2048]
  assert len(large) >= 20
  for x in large:
    assert np.prod(x.sharding.shard_shape(x.shape)) == x.size // 8


def test_report_names_shape_axes_and_bytes_of_every_parameter():
  mesh = sharding.make_mesh(MESHES['mixed'])

  def array(shape, *axes):
    return jax.ShapeDtypeStruct(
      shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes))
    )

  train_state = state.TrainState(
    step=array(()),
    params={
      'encoder': {'layers': {'wi': array((2, 64, 128), None, 'fsdp', 'tensor')}},
      'table': array((8, 32), ('data', 'fsdp')),
    },
    opt_state=(array((10,)),),
  )
  lines = [line.split() for line in sharding.report(train_state).splitlines()]
  assert lines == [
    'parameter shape mesh axes bytes per device'.split(),
    'encoder/layers/wi 2 x 64 x 128 -, fsdp, tensor 16,384'.split(),
    'table 8 x 32 data+fsdp, - 256'.split(),
    'all parameters 16,640 16,640'.split(),
    'optimizer state 10 40'.split(),
  ]


@pytest.fixture(scope='module')
def initial_params():
  """Unsharded, stacked parameters on the host."""
  mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
  model = model_of()
  params = state.create_params(model, state.abstract_params(model, mesh, sharding.RULES), seed=0)
  return jax.tree.map(np.asarray, params)


def train(mesh, params, scan_layers, rules=sharding.RULES):
  """Returns (the losses of five steps, the state after them)."""
  model = model_of(scan_layers, dropout_rate=0.0)
  shapes = state.abstract_state(model, OPTIMIZER, mesh, rules)
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  if not scan_layers:
    params = stacking.unstack_layers(params)
  train_state = state.create(OPTIMIZER, jax.device_put(params, shardings.params), shapes)
  train_step = jax.jit(
    functools.partial(
      step.train_step,
      model=model,
      optimizer=OPTIMIZER,
      loss_config=losses.LossConfig(num_chunks=3),
      schedule=SCHEDULE,
      seed=0,
    ),
    in_shardings=(shardings, sharding.batch_sharding(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  measured = []
  with sharding.activate(mesh, rules):
    batch = jax.device_put(tiny.batch(vocab_size=384), sharding.batch_sharding(mesh))
    for _ in range(5):
      train_state, metrics = train_step(train_state, batch)
      measured.append(float(metrics['loss']))
  return measured, train_state


@pytest.fixture(scope='module')
def losses_on_one_device(initial_params):
  mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
  measured, _ = train(mesh, initial_params, scan_layers=True)
  assert measured[-1] < measured[0] - 1
  return measured


@pytest.mark.parametrize(
  'name, scan_layers',
  [
    ('data', True),
    ('fsdp', True),
    ('mixed', True),
    pytest.param('data', False, marks=pytest.mark.slow),
    pytest.param('fsdp', False, marks=pytest.mark.slow),
    ('mixed', False),
    ('residual', True),
  ],
)
def test_eight_devices_repeat_the_losses_of_one(
  initial_params, losses_on_one_device, capfd, name, scan_layers
):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    mesh = sharding.make_mesh(MESHES[name])
    measured, trained = train(mesh, initial_params, scan_layers, MESHES[name].rules)
  np.testing.assert_allclose(measured, losses_on_one_device, rtol=3e-6)
  # The partitioner says so where it replicates an array to reshard it.
  assert 'Involuntary full rematerialization' not in capfd.readouterr().err

  if scan_layers:
    kernel = trained.params['encoder']['layers']['mlp']['wi_0']['kernel']
    (factored,) = [s for s in trained.opt_state if hasattr(s, 'v_row')]
    means = factored.v_row['encoder']['layers']['mlp']['wi_0']['kernel']
    pieces = [x.addressable_shards[0].data.shape for x in (kernel, means)]
    assert (
      pieces
      == {
        'data': [(2, 128, 512), (2, 128)],
        'fsdp': [(2, 16, 512), (2, 16)],
        'mixed': [(2, 64, 256), (2, 64)],
        'residual': [(2, 32, 256), (2, 32)],
      }[name]
    )


def test_initial_parameters_do_not_depend_on_the_mesh(initial_params):
  mesh = sharding.make_mesh(MESHES['mixed'])
  model = model_of()
  with sharding.activate(mesh, sharding.RULES):
    params = state.create_params(model, state.abstract_params(model, mesh, sharding.RULES), seed=0)
  kernel = params['decoder']['layers']['mlp']['wo']['kernel']
  assert kernel.addressable_shards[0].data.shape == (2, 256, 64)
  jax.tree.map(np.testing.assert_array_equal, params, initial_params)
