"""Caches of tasks: what is written, and what training reads of it, in which order."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import choices, errors
from t5x_lite.data import batches, cached_tasks, objectives, sources, tfrecords

caching = pytest.importorskip('t5x_lite.data.caching', reason="needs 't5x_lite[cache]'")

NUM_ROWS = 203
_FEATURE = seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)
_TASKS = ('rows', 'spans', 'online')


def _add(name, lines, precache=(), postcache=(), placeholder=True, **options):
  seqio.TaskRegistry.add(
    f'cached_{name}',
    source=sources.JsonLinesDataSource(
      {'train': str(lines), 'validation': str(lines)}, ['inputs', 'targets']
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      *precache,
      *[seqio.CacheDatasetPlaceholder()] * placeholder,
      *postcache,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={'inputs': _FEATURE, 'targets': _FEATURE},
    **options,
  )


@pytest.fixture(scope='module')
def cache_dir(tmp_path_factory):
  """Folder with the caches of `cached_rows` and `cached_spans`."""
  folder = tmp_path_factory.mktemp('caches')
  lines = folder / 'rows.jsonl'
  rows = [{'inputs': f'{n} ' * (n % 7 + 1), 'targets': str(n)} for n in range(NUM_ROWS)]
  lines.write_text('\n'.join(map(json.dumps, rows)))
  _add('rows', lines)
  _add('spans', lines, postcache=[objectives.span_corruption], shuffle_buffer_size=8)
  _add('online', lines, placeholder=False)
  seqio.MixtureRegistry.add(
    'cached_mixture', [('cached_rows', 1.0), ('cached_spans', 2.0), ('cached_online', 1.0)]
  )
  choices.begin(cache_dir=str(folder))
  for name in ('cached_rows', 'cached_spans'):
    caching.cache_task(seqio.TaskRegistry.get(name), ['train', 'validation'])
  yield folder
  for name in _TASKS:
    seqio.TaskRegistry.remove(f'cached_{name}')
  seqio.MixtureRegistry.remove('cached_mixture')


@pytest.fixture(autouse=True)
def _here(cache_dir):
  choices.begin(cache_dir=str(cache_dir))
  cached_tasks.search_cache_directory()
  yield
  choices.begin()


@pytest.fixture
def without_array_record(monkeypatch):
  monkeypatch.setattr(cached_tasks, '_can_read_array_records', lambda: False)


def _config(name='cached_rows', **changes):
  values = {
    'mixture_or_task_name': name,
    'task_feature_lengths': {'inputs': 48, 'targets': 16},
    'batch_size': 7,
    'seed': 3,
    'use_cached': True,
  }
  return batches.DatasetConfig(**(values | changes))


def _take(iterator, number):
  return [next(iterator) for _ in range(number)]


def _same(first, second):
  return len(first) == len(second) and all(
    a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    for a, b in zip(first, second, strict=True)
  )


def _numbers(rows):
  """Returns the targets of `cached_rows`, which number its examples."""
  decode = _FEATURE.vocabulary.decode
  return [int(decode(row.tolist())) for b in rows for row in b['decoder_target_tokens']]


def _tokens(dataset):
  return sorted(
    (*example['inputs'], -1, *example['targets']) for example in dataset.as_numpy_iterator()
  )


def test_seqio_finds_and_reads_the_cache_as_its_own(cache_dir):
  task = seqio.TaskRegistry.get('cached_rows')
  assert task.cache_dir == str(cache_dir / 'cached_rows')
  assert task.get_cached_stats('train')['examples'] == NUM_ROWS
  lengths = {'inputs': 48, 'targets': 16}
  cached, online = (
    task.get_dataset(lengths, 'train', use_cached=use_cached, shuffle=False)
    for use_cached in (True, False)
  )
  assert cached.element_spec == online.element_spec
  assert _tokens(cached) == _tokens(online)


def test_both_forms_of_a_cache_hold_the_same_examples(cache_dir):
  source = cached_tasks.ArrayRecordDataSource(str(cache_dir / 'cached_rows'), 'train')
  of_tfrecords = seqio.TaskRegistry.get('cached_rows')._get_cached_source('train')
  datasets = [each.get_dataset('train', shuffle=False) for each in (source, of_tfrecords)]
  assert datasets[0].element_spec == datasets[1].element_spec
  assert _tokens(datasets[0]) == _tokens(datasets[1])


def _check_positions(config, positions, following):
  iterator = batches.train_batches(config)
  read, states = [], {}
  for i in range(max(positions) + following):
    if i in positions:
      states[i] = iterator.get_state()
    read.append(next(iterator))
  for i, state in states.items():
    fresh = batches.train_batches(config)
    fresh.set_state(state)
    assert _same(_take(fresh, following), read[i : i + following]), i


@pytest.mark.parametrize(
  'name, pack', [('cached_rows', False), ('cached_spans', True), ('cached_mixture', False)]
)
def test_a_saved_position_is_followed_by_exactly_the_same_batches(name, pack):
  _check_positions(_config(name, pack=pack), (5, 65), 30)  # In the first epoch, and in a later one.


@pytest.mark.parametrize('records_at_once', [16, 256])
def test_positions_at_the_end_of_an_epoch_are_followed_by_the_right_next_one(
  cache_dir, tmp_path, monkeypatch, records_at_once
):
  monkeypatch.setattr(cached_tasks, '_RECORDS_AT_ONCE', records_at_once)
  source = cached_tasks.ArrayRecordDataSource(str(cache_dir / 'cached_rows'), 'train')

  def begin():
    options = tf.data.Options()
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    dataset = source.get_dataset('train', shuffle=True, seed=3).repeat().with_options(options)
    return iter(dataset.map(lambda example: example['targets']))

  iterator, read = begin(), []
  for i in range(2 * NUM_ROWS):
    if NUM_ROWS - 8 <= i <= NUM_ROWS + 2:
      tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / str(i)))
    read.append(next(iterator).numpy().tolist())
  for i in range(NUM_ROWS - 8, NUM_ROWS + 2):
    fresh = begin()
    tf.train.Checkpoint(iterator=fresh).read(str(tmp_path / str(i))).assert_consumed()
    assert [next(fresh).numpy().tolist() for _ in range(20)] == read[i : i + 20], i


def test_a_position_in_tfrecords_is_exact_too(without_array_record):
  _check_positions(_config(), (5, 40), 30)


def test_every_epoch_is_another_permutation_of_all_examples():
  epochs = np.reshape(_numbers(_take(batches.train_batches(_config()), 3 * 29)), (3, NUM_ROWS))
  for epoch in epochs:
    assert sorted(epoch) == list(range(NUM_ROWS))
    # Not only neighbours change places: as far as two random numbers are, a third of all on average.
    assert 50 < np.abs(epoch - np.arange(NUM_ROWS)).mean() < 85
  assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


def test_hosts_share_the_examples_of_an_epoch_without_loss_or_repetition():
  config = _config(batch_size=3)
  shares = [
    _numbers(_take(batches.train_batches(config, stream=i, num_streams=3), 67)) for i in range(3)
  ]
  assert len(set(sum(shares, []))) == 3 * 67
  assert all(np.ptp(share) > NUM_ROWS * 0.8 for share in shares)  # None reads a part of the files.


def test_a_position_stays_small():
  iterator = batches.train_batches(_config())
  for skipped in (3, 400):
    _take(iterator, skipped)
    # Of 2,800 rows read until then it has those that were read ahead, which are more or fewer.
    assert len(iterator.get_state()) < 50_000


@pytest.mark.slow
def test_resuming_reads_no_more_at_step_5000_than_at_step_10():
  config = _config(batch_size=2)
  iterator, states, following = batches.train_batches(config), {}, {}
  for step in (10, 5000):
    for _ in range(step - max(states, default=0) - 3 * len(states)):
      next(iterator)
    states[step] = iterator.get_state()
    following[step] = _take(iterator, 3)
  numbers = []
  for step, state in states.items():
    fresh = batches.train_batches(config)
    with _counted_records(numbers):
      fresh.set_state(state)
      assert _same(_take(fresh, 3), following[step])
    del fresh
  # Some are read ahead; 10,000 were read until then.
  assert len(numbers) < 2 * 2 * NUM_ROWS + 2 * cached_tasks._RECORDS_AT_ONCE
  assert abs(len(states[5000]) - len(states[10])) < 20_000


@contextlib.contextmanager
def _counted_records(numbers):
  read = cached_tasks.ArrayRecordDataSource._read

  def count(self, rows):
    numbers.extend(rows)
    return read(self, rows)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cached_tasks.ArrayRecordDataSource, '_read', count)
    yield


def test_rows_cut_from_one_example_are_still_parted_by_the_shuffle_buffer_of_the_task():
  buffers = {
    name: cached_tasks.reading_caches(
      seqio.TaskRegistry.get(name), 'train', {'inputs': 48, 'targets': 16}
    ).shuffle_buffer_size
    for name in ('cached_rows', 'cached_spans')
  }
  assert buffers == {'cached_rows': None, 'cached_spans': 8}


def test_random_preprocessing_differs_from_epoch_to_epoch():
  first, second = (
    {tuple(row) for b in epoch for row in b['encoder_input_tokens']}
    for epoch in np.split(np.array(_take(batches.train_batches(_config('cached_spans')), 40)), 2)
  )
  assert len(first - second) > len(first) / 2


def test_evaluation_reads_the_cache_in_the_order_of_seqio():
  config = _config(split='validation', shuffle=False)
  read = np.concatenate([b['decoder_target_tokens'] for b in batches.eval_batches(config)])
  dataset = seqio.TaskRegistry.get('cached_rows').get_dataset(
    {'inputs': 48, 'targets': 16}, 'validation', use_cached=True, shuffle=False
  )
  for row, example in zip(read, dataset.as_numpy_iterator(), strict=False):
    np.testing.assert_array_equal(row[row > 0], example['targets'])


def test_a_position_in_another_cache_or_another_form_is_refused(cache_dir, monkeypatch):
  state = batches.train_batches(_config()).get_state()
  with monkeypatch.context() as patch:
    patch.setattr(cached_tasks, '_can_read_array_records', lambda: False)
    with pytest.raises(errors.UserError, match="'cached_rows array_record .*cached_rows tfrecord "):
      batches.train_batches(_config()).set_state(state)
  before = _replace_in_completed(cache_dir, cache='made again')
  try:
    with pytest.raises(errors.UserError, match=f'{before["cache"]}.*made again'):
      batches.train_batches(_config()).set_state(state)
  finally:
    _replace_in_completed(cache_dir, **before)


def test_a_cache_in_another_vocabulary_is_refused(cache_dir):
  other = {'type': 'bytes', 'size': 259, 'sha256': '0'}
  before = _replace_in_completed(cache_dir, vocabularies={'targets': other})
  try:
    with pytest.raises(errors.UserError, match="has 'targets' in the vocabulary .*259.* now .*359"):
      batches.train_batches(_config())
  finally:
    _replace_in_completed(cache_dir, **before)


def _replace_in_completed(cache_dir, **changes):
  path = cache_dir / 'cached_rows' / 'COMPLETED'
  before = json.loads(path.read_text())
  path.write_text(json.dumps(before | changes))
  return before


def test_files_of_another_project_without_an_index_are_read_in_the_order_of_seqio(
  cache_dir, tmp_path, monkeypatch
):
  theirs = tmp_path / 'cached_rows'
  theirs.mkdir()
  for path in (cache_dir / 'cached_rows').iterdir():
    if 'array_record' not in path.name:
      (theirs / path.name).write_bytes(b'' if path.name == 'COMPLETED' else path.read_bytes())
  task = seqio.TaskRegistry.get('cached_rows')
  monkeypatch.setattr(task, '_cache_dir', str(theirs))
  assert cached_tasks.describe(task, 'train') == ['cached_rows tfrecord']
  lengths = {'inputs': 48, 'targets': 16}
  ours = cached_tasks.reading_caches(task, 'train', lengths)
  assert isinstance(ours.source, tfrecords.TFRecordDataSource)
  options = {'use_cached': True, 'shuffle': True, 'seed': 5}
  first = ours.get_dataset(lengths, 'train', **options | {'use_cached': False})
  second = task.get_dataset(lengths, 'train', **options)
  assert first.element_spec == second.element_spec
  for a, b in zip(first.as_numpy_iterator(), second.as_numpy_iterator(), strict=True):
    np.testing.assert_equal(a, b)
  read = _take(batches.train_batches(_config(shuffle=False)), 29)
  assert sorted(_numbers(read)) == list(range(NUM_ROWS))


def test_missing_examples_are_told(cache_dir):
  folder = cache_dir / 'cached_rows'
  lost = folder / 'train.array_record-00003-of-00016'
  content = lost.read_bytes()
  lost.unlink()
  try:
    with pytest.raises(errors.UserError, match=f'but {NUM_ROWS} were cached: copy the cache anew'):
      batches.train_batches(_config())
  finally:
    lost.write_bytes(content)


@pytest.mark.parametrize(
  'name, use_cached, complaint',
  [
    ('cached_online', True, "'cached_online' has no seqio.CacheDatasetPlaceholder"),
    ('cached_required', False, "'cached_required' is to be read from its cache: give USE_CACHED"),
    ('cached_required', True, "no cache of 'cached_required' .*`t5x-lite tasks cache cached_req"),
  ],
)
def test_what_use_cached_cannot_be_is_told(name, use_cached, complaint):
  seqio.TaskRegistry.add(
    'cached_required',
    source=seqio.TaskRegistry.get('cached_rows').source,
    preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(required=True)],
    output_features={'inputs': _FEATURE, 'targets': _FEATURE},
  )
  try:
    with pytest.raises(errors.UserError, match=complaint):
      batches.train_batches(_config(name, use_cached=use_cached))
  finally:
    seqio.TaskRegistry.remove('cached_required')


@pytest.mark.parametrize(
  'shape, dtype, value, stored',
  [
    ([], 'int32', 7, tf.int32),
    ([], 'float32', 0.5, tf.float32),
    ([None], 'int32', [3, 0], tf.int32),
    ([None, 2], 'int64', [[1, 2], [3, 4]], tf.int64),
    ([None], 'string', [b'a\0', b''], tf.string),
  ],
)
def test_features_of_all_kinds_come_back_as_they_were(shape, dtype, value, stored):
  value = tf.constant(value, stored)
  record = seqio.dict_to_tfexample({'x': value}).SerializeToString()
  parsed = tf.io.parse_single_example(record, {'x': cached_tasks._stored(shape, dtype)})['x']
  np.testing.assert_array_equal(tf.cast(parsed, dtype), value)


def test_a_cache_of_ragged_features_is_read_as_seqio_does(cache_dir, tmp_path, monkeypatch):
  folder = tmp_path / 'ragged'
  shutil.copytree(cache_dir / 'cached_rows', folder)
  info = json.loads((folder / 'info.train.json').read_text())
  info['features']['inputs']['shape'] = [None, None]
  (folder / 'info.train.json').write_text(json.dumps(info))
  task = seqio.TaskRegistry.get('cached_rows')
  monkeypatch.setattr(task, '_cache_dir', str(folder))
  assert cached_tasks.reading_caches(task, 'train', {}) is task
