"""Batches divided among hosts: the same ones, whatever hosts there are."""

import functools

import numpy as np
import pytest
import seqio

from t5x_lite import errors
from t5x_lite.data import batches, sources
from t5x_lite.hosts import streams

BATCH_SIZE = 8
# The rows that the devices of each host hold.
HOSTS = {
  'one': {0: range(8)},
  'two': {0: range(4), 1: range(4, 8)},
  'four': {host: range(2 * host, 2 * host + 2) for host in range(4)},
  'eight': {host: [host] for host in range(8)},
  'two of four share their rows': {0: range(4), 1: range(4), 2: range(4, 8), 3: range(4, 8)},
  'rows that are not neighbours': {0: [0, 1, 4, 5], 1: [2, 3, 6, 7]},
}


@pytest.fixture(scope='module', autouse=True)
def task():
  feature = seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)
  seqio.TaskRegistry.add(
    'streams_of_numbers',
    source=sources.RowsDataSource(lambda split: {'targets': list(map(str, range(97)))}, ['train']),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
    output_features={'targets': feature},
    shuffle_buffer_size=16,
  )
  yield
  seqio.TaskRegistry.remove('streams_of_numbers')


def hosts_of(layout, saved=(), batch_size=BATCH_SIZE, seed=3):
  """Returns (share, iterator) of each host of a job."""
  config = batches.DatasetConfig(
    'streams_of_numbers', {'targets': 4}, batch_size=batch_size, seed=seed
  )
  open_stream = functools.partial(batches.train_batches, config, has_encoder=False, drawn_seed=5)
  shares = [streams.share(HOSTS[layout], host, batch_size, saved) for host in HOSTS[layout]]
  return [(share, streams.HostBatches(share, open_stream)) for share in shares]


def read(hosts, number):
  """Returns the targets of `number` whole batches, put together from what the hosts have."""
  whole = np.full((number, BATCH_SIZE, 4), -1)
  for i in range(number):
    for share, iterator in hosts:
      rows = next(iterator)['decoder_target_tokens']
      held = whole[i, share.rows]
      assert ((held == -1) | (held == rows)).all()  # Hosts that hold a row have the same.
      whole[i, share.rows] = rows
  assert (whole >= 0).all()
  return whole


@pytest.mark.parametrize(
  ('layout', 'num_streams', 'streams_of_hosts'),
  [
    ('one', 1, [[0]]),
    ('four', 4, [[0], [1], [2], [3]]),
    ('two of four share their rows', 2, [[0], [0], [1], [1]]),
    ('rows that are not neighbours', 2, [[0, 1], [0, 1]]),
  ],
)
def test_each_host_of_a_new_run_reads_as_little_as_it_can(layout, num_streams, streams_of_hosts):
  shares = [share for share, _ in hosts_of(layout)]
  assert {share.num_streams for share in shares} == {num_streams}
  assert [share.streams for share in shares] == streams_of_hosts


@pytest.mark.parametrize(
  ('first', 'then'),
  [
    ('one', 'four'),
    ('four', 'one'),
    ('four', 'two of four share their rows'),
    ('two', 'eight'),
    ('rows that are not neighbours', 'two'),
    ('two', 'rows that are not neighbours'),
  ],
)
def test_the_batches_that_follow_are_the_same_on_any_hosts(first, then):
  hosts = hosts_of(first)
  read(hosts, 7)
  saved = [iterator.get_state() for _, iterator in hosts]
  names = sorted(name for states in saved for name in states)
  assert names == sorted(set(names))  # No stream is saved by two hosts.
  states = {name: state for each in saved for name, state in each.items()}
  expected = read(hosts, 20)  # More than an epoch.

  others = hosts_of(then, saved=states)
  for share, iterator in others:
    iterator.set_state({name: states[name] for name in share.names})
  np.testing.assert_array_equal(read(others, 20), expected)


def test_a_run_without_a_seed_has_the_same_one_on_all_hosts():
  hosts = hosts_of('two of four share their rows', seed=None)
  read(hosts, 3)


def test_a_batch_that_the_streams_of_the_run_do_not_divide_is_refused():
  with pytest.raises(errors.UserError, match='BATCH_SIZE=6 is not divisible by the 4 streams'):
    streams.share({0: range(6)}, 0, 6, saved=['0-of-4'])
