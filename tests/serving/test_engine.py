"""The model behind the server, without HTTP."""

import gc

import jax
import pytest
import random_runs

from t5x_lite import errors, sharding
from t5x_lite.decoding import options
from t5x_lite.evaluation import runs
from t5x_lite.serving import engine, limits


@pytest.fixture(scope='module')
def opened(random_run):
  return runs.open_run(random_run)


def create(opened, decoding=None, batch_size=8, lengths=random_runs.LENGTHS, **bounds):
  return engine.Engine(
    opened,
    sharding.data_parallel(),
    lengths,
    batch_size,
    options.DecodingConfig(**(decoding or {})),
    limits.Limits(**bounds),
  )


def test_seeds_share_batches_and_options_do_not(opened):
  model = create(opened, {'temperature': 1.0})
  key, items = model.questions(['a red fish', 'red'], {'seed': 3})
  other_key, other_items = model.questions(['one bird'], {'seed': 4})
  assert key == other_key == model.questions(['red'], {})[0]
  assert key != model.questions(['red'], {'temperature': 0.5})[0]
  together = model.answer(key, [*items, *other_items])
  assert together[:2] == model.answer(key, items)
  assert together[2:] == model.answer(key, other_items)


def test_texts_without_a_seed_are_drawn_as_those_of_one_long_run(opened):
  model = create(opened, {'temperature': 2.0, 'seed': 7})
  first = [model.answer(*model.questions([text], {}))[0] for text in ['red'] * 4]
  again = create(opened, {'temperature': 2.0, 'seed': 7})
  assert again.answer(*again.questions(['red'] * 4, {'seed': 7})) == first
  assert len({answer['score'] for answer in first}) == 4


def test_one_program_means_no_options_but_the_servers(opened):
  model = create(opened, {'num_beams': 2}, max_programs=1)
  assert model.questions(['red'], {'num_beams': 2, 'seed': 3})
  with pytest.raises(errors.UserError, match='alpha, num_beams: this server takes no options'):
    model.questions(['red'], {'num_beams': 2, 'alpha': 0.0})


def test_what_has_no_options_of_its_own_is_compiled_before(opened):
  model = create(opened, lengths={'inputs': 40, 'targets': 4})
  model.compile()
  compiled = len(jax.devices()[0].client.live_executables())
  for text in ('red', 'fish ' * 35):  # In either bucket of lengths.
    assert 'prediction' in model.answer(*model.questions([text], {'seed': 1}))[0]
    assert model.answer(*model.pairs([text], ['fish']))[0]['score'] < 0
  assert len(jax.devices()[0].client.live_executables()) == compiled


def test_programs_that_were_not_used_lately_are_given_up(opened):
  model = create(opened, max_programs=2)
  client = jax.devices()[0].client

  def ask(limit):
    model.answer(*model.questions(['a red fish'], {'max_new_tokens': limit}))
    gc.collect()
    return len(client.live_executables())

  ask(1)
  two = ask(2)
  assert [ask(3), ask(4), ask(3)] == [two] * 3


@pytest.mark.parametrize(
  'decoding, bounds, told',
  [
    ({'num_beams': 4}, {'max_beams': 3}, 'num_beams and num_answers=4 may be at most 3, MAX_BEAMS'),
    ({'max_new_tokens': 9}, {}, 'max_new_tokens=9 may be at most 4, the length of the targets'),
    ({'seed': 2**40}, {}, 'seed=1099511627776 may be from 0'),
  ],
)
def test_options_of_the_server_keep_to_its_limits(opened, decoding, bounds, told):
  with pytest.raises(errors.UserError, match=told):
    create(opened, decoding, **bounds)


@pytest.mark.parametrize(
  'bounds, told',
  [
    ({'max_queue': 0}, 'MAX_QUEUE=0 must be above 0'),
    ({'batch_wait': -0.1}, 'BATCH_WAIT=-0.1 must be at least 0'),
    ({'request_timeout': 0.0}, 'REQUEST_TIMEOUT=0.0 must be above 0'),
    ({'max_texts': 65, 'max_queue': 64}, 'MAX_TEXTS=65 .* would never fit MAX_QUEUE=64'),
  ],
)
def test_limits_that_cannot_be_are_told(bounds, told):
  with pytest.raises(errors.UserError, match=told):
    limits.Limits(**bounds)


def test_a_batch_has_to_divide_by_the_devices(opened):
  with pytest.raises(errors.UserError, match='BATCH_SIZE=3 is not divisible by the 8 devices'):
    create(opened, batch_size=3)
