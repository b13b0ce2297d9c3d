"""Shapes before arrays, and new states."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from t5x_lite import sharding
from t5x_lite.models import encoder_decoder, stacking
from t5x_lite.models.config import T5Config
from t5x_lite.training import optimizers, state

T5_XXL = {
  'vocab_size': 32128,
  'emb_dim': 4096,
  'num_heads': 64,
  'head_dim': 64,
  'mlp_dim': 10240,
  'num_encoder_layers': 24,
  'num_decoder_layers': 24,
}


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(sharding.data_parallel())


@pytest.fixture(scope='module')
def params(mesh):
  model = encoder_decoder.T5(tiny.config())
  return state.create_params(model, state.abstract_params(model, mesh, sharding.RULES), seed=3)


def test_eleven_billion_parameters_have_shapes_and_shardings_before_any_memory():
  mesh = sharding.make_mesh(sharding.fsdp_tensor(tensor=2))
  optimizer = optimizers.adafactor(1e-3)
  model = encoder_decoder.T5(T5Config(**T5_XXL))
  abstract = state.abstract_state(model, optimizer, mesh, sharding.RULES)
  assert sum(x.size for x in jax.tree.leaves(abstract.params)) == 11_135_332_352
  embedding = abstract.params['token_embedder']['embedding']
  assert isinstance(embedding, jax.ShapeDtypeStruct)
  assert embedding.sharding.shard_shape(embedding.shape) == (32128 // 8, 4096)
  # Adafactor keeps a row and a column for each matrix.
  assert sum(x.size for x in jax.tree.leaves(abstract.opt_state)) < 10_000_000


def test_a_new_state_is_what_its_shapes_promised(mesh, params):
  model, optimizer = encoder_decoder.T5(tiny.config()), optax.adam(1e-3)
  abstract = state.abstract_state(model, optimizer, mesh, sharding.RULES)
  new = state.create(optimizer, params, abstract)

  def check(promised, array):
    assert (array.shape, array.dtype) == (promised.shape, promised.dtype)
    assert array.sharding.is_equivalent_to(promised.sharding, array.ndim)

  jax.tree.map(check, abstract, new)
  assert new.step == 0 and new.step.dtype == jnp.int32
  assert {x.dtype for x in jax.tree.leaves(new.params)} == {np.dtype('float32')}


def test_another_seed_gives_other_parameters(mesh, params):
  model = encoder_decoder.T5(tiny.config())
  shapes = state.abstract_params(model, mesh, sharding.RULES)
  others = state.create_params(model, shapes, seed=4)
  embedding, other = (np.asarray(p['token_embedder']['embedding']) for p in (params, others))
  assert (embedding != other).all()


def test_some_parameters_are_those_of_all_with_the_same_seed(mesh):
  config = tiny.config(num_encoder_layers=2)
  model = encoder_decoder.T5(config)
  abstract = state.abstract_params(model, mesh, sharding.RULES)
  params = state.create_params(model, abstract, seed=3)
  names = ['encoder/layers/mlp/wo/kernel', 'token_embedder/embedding']
  some = state.create_some_params(model, abstract, names, seed=3)
  assert list(some) == names
  expected = params['encoder']['layers']['mlp']['wo']['kernel']
  np.testing.assert_array_equal(some[names[0]], expected, strict=True)


def test_layers_apart_and_stacked_begin_alike_on_every_mesh(mesh):
  config = tiny.config(num_encoder_layers=2, num_decoder_layers=2)
  apart = encoder_decoder.T5(dataclasses.replace(config, scan_layers=False))
  stacked = encoder_decoder.T5(config)
  fsdp = sharding.make_mesh(sharding.fsdp_tensor(tensor=2))
  one = state.create_params(apart, state.abstract_params(apart, mesh, sharding.RULES), seed=3)
  other = state.create_params(stacked, state.abstract_params(stacked, fsdp, sharding.RULES), seed=3)
  jax.tree.map(np.testing.assert_array_equal, one, stacking.unstack_layers(other))
  kernels = [one['encoder'][f'layers_{i}']['mlp']['wo']['kernel'] for i in range(2)]
  assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).all()


def test_parameters_of_one_kind_are_drawn_by_one_program(mesh, caplog):
  shape = {'num_encoder_layers': 3, 'num_decoder_layers': 3, 'emb_dim': 24, 'num_heads': 3}
  model = encoder_decoder.T5(tiny.config(scan_layers=False, **shape))  # No other test's shapes.
  abstract = state.abstract_params(model, mesh, sharding.RULES)
  with jax.log_compiles(), caplog.at_level('WARNING'):
    state.create_params(model, abstract, seed=3)
  programs = [message for message in caplog.messages if message.startswith('Compiling jit(draw)')]
  # Queries, keys with values, attention's outputs, wi, wo, norms, biases, embedding, logits.
  assert len(programs) == 9
