"""Batches, and the positions in them that a run resumes from."""

import json
import subprocess
import sys

import numpy as np
import pytest
import seqio

from t5x_lite import errors
from t5x_lite.data import batches, objectives, sources

_FEATURE = seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)
_FEATURES = {'inputs': _FEATURE, 'targets': _FEATURE}


def _rows(split):
  numbers = range(200) if split == 'train' else range(1000, 1010)
  return {
    'inputs': ['abcdefgh' * (n % 5 + 1) + str(n) for n in numbers],
    'targets': list(map(str, numbers)),
  }


def _add(name, source, preprocess, **options):
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      seqio.preprocessors.tokenize,
      *preprocess,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=_FEATURES,
    **options,
  )


@pytest.fixture(scope='module', autouse=True)
def _tasks(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  for shard in range(3):
    rows = [{'inputs': f'{n} ' * (n % 7 + 1), 'targets': str(n)} for n in range(shard, 150, 3)]
    lines = '\n'.join(map(json.dumps, rows)) + ('\n{"inputs": "x"}' if shard == 2 else '')
    name = 'bad' if shard == 2 else f'good-{shard}'
    (folder / f'{name}.jsonl').write_text(lines)
  rows = sources.RowsDataSource(_rows, ['train', 'validation'])
  lines = sources.JsonLinesDataSource({'train': f'{folder}/good-*.jsonl'}, ['inputs', 'targets'])
  bad = sources.JsonLinesDataSource({'train': f'{folder}/bad.jsonl'}, ['inputs', 'targets'])
  _add('batches_rows', rows, [], shuffle_buffer_size=None)
  _add('batches_lines', lines, [], shuffle_buffer_size=20)
  _add('batches_bad_lines', bad, [])
  _add(
    'batches_spans',
    sources.RowsDataSource(
      lambda split: {'targets': _rows(split)['inputs']}, ['train', 'validation']
    ),
    [objectives.span_corruption],
    shuffle_buffer_size=8,
  )
  seqio.MixtureRegistry.add('batches_mixture', [('batches_lines', 1.0), ('batches_spans', 2.0)])
  yield
  for name in ('rows', 'lines', 'bad_lines', 'spans'):
    seqio.TaskRegistry.remove(f'batches_{name}')
  seqio.MixtureRegistry.remove('batches_mixture')


def _config(name='batches_rows', **changes):
  values = {
    'mixture_or_task_name': name,
    'task_feature_lengths': {'inputs': 48, 'targets': 16},
    'split': 'train',
    'batch_size': 4,
    'shuffle': True,
    'seed': 3,
    'pack': False,
  }
  return batches.DatasetConfig(**(values | changes))


def _take(iterator, number):
  return [next(iterator) for _ in range(number)]


def _equal(first, second):
  return len(first) == len(second) and all(
    a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    for a, b in zip(first, second, strict=True)
  )


def _targets(rows):
  return [
    _FEATURE.vocabulary.decode(row.tolist())
    for b in rows
    for row in b['decoder_target_tokens']
    if row.any()
  ]


@pytest.mark.parametrize('pack', [False, True])
def test_batch_features_have_the_agreed_names_shapes_and_types(pack):
  batch = next(batches.train_batches(_config(pack=pack)))
  shapes = {name: value.shape for name, value in batch.items()}
  expected = {'encoder_input_tokens': (4, 48)} | {
    f'decoder_{name}': (4, 16) for name in ('input_tokens', 'target_tokens', 'loss_weights')
  }
  if pack:
    for name in ('segment_ids', 'positions'):
      expected |= {f'encoder_{name}': (4, 48), f'decoder_{name}': (4, 16)}
  assert shapes == expected
  assert {value.dtype for value in batch.values()} == {np.dtype('int32')}
  assert np.array_equal(batch['decoder_loss_weights'], batch['decoder_target_tokens'] != 0)


def test_long_features_are_trimmed_and_still_end_with_eos():
  batch = next(batches.train_batches(_config(task_feature_lengths={'inputs': 8, 'targets': 3})))
  assert (batch['encoder_input_tokens'][:, -1] == 1).all()
  assert batch['decoder_target_tokens'].shape == (4, 3)


@pytest.mark.parametrize(
  'name, pack',
  [
    ('batches_rows', True),
    ('batches_lines', False),
    ('batches_spans', False),
    ('batches_mixture', True),
  ],
)
def test_a_saved_position_is_followed_by_exactly_the_same_batches(name, pack):
  config = _config(name, pack=pack)
  iterator = batches.train_batches(config)
  _take(iterator, 7)
  state = iterator.get_state()
  followed = _take(iterator, 60)  # Several epochs.

  fresh = batches.train_batches(config)
  fresh.set_state(state)
  assert _equal(_take(fresh, 60), followed)

  iterator.set_state(state)
  assert _equal(_take(iterator, 5), followed[:5])


def test_saving_the_position_changes_nothing():
  saved, plain = batches.train_batches(_config()), batches.train_batches(_config())
  for _ in range(5):
    assert _equal([next(saved)], [next(plain)])
    saved.get_state()


def test_a_position_before_the_first_batch_is_one_too():
  iterator = batches.train_batches(_config())
  state = iterator.get_state()
  first = _take(iterator, 2)
  iterator.set_state(state)
  assert _equal(_take(iterator, 2), first)


def test_a_drawn_seed_is_part_of_the_position():
  iterator = batches.train_batches(_config('batches_spans', seed=None))
  other = batches.train_batches(_config('batches_spans', seed=None))
  state = iterator.get_state()
  first = _take(iterator, 3)
  assert not _equal(_take(other, 3), first)
  other.set_state(state)
  assert _equal(_take(other, 3), first)


def test_a_position_in_other_batches_is_refused_naming_both():
  state = batches.train_batches(_config()).get_state()
  with pytest.raises(errors.UserError, match='batch_size=4, but this run has batch_size=8'):
    batches.train_batches(_config(batch_size=8)).set_state(state)


def test_the_seed_decides_the_order_and_epochs_differ():
  def order(seed):
    return _targets(_take(batches.train_batches(_config(seed=seed)), 100))

  first = order(1)
  assert first == order(1) != order(2)
  assert sorted(first[:200]) == sorted(first[200:]) == sorted(_rows('train')['targets'])
  assert first[:200] != first[200:]


def test_streams_have_different_examples():
  seen = [
    _targets(_take(batches.train_batches(_config(), stream=i, num_streams=2), 50)) for i in (0, 1)
  ]
  assert len(seen[0]) == 100
  assert sorted(seen[0] + seen[1]) == sorted(_rows('train')['targets'])


def test_evaluation_sees_each_example_once_and_fills_the_last_batch_with_zeros():
  read = list(batches.eval_batches(_config(split='validation')))
  assert [len(batch['encoder_input_tokens']) for batch in read] == [4, 4, 4]
  assert _targets(read) == _rows('validation')['targets']
  assert not any(value[2:].any() for value in read[-1].values())


def test_evaluation_corrupts_the_same_spans_each_time():
  config = _config('batches_spans', split='validation', seed=None)
  assert _equal(list(batches.eval_batches(config)), list(batches.eval_batches(config)))


def test_a_bad_line_is_told_as_a_user_error_with_its_place():
  iterator = batches.train_batches(_config('batches_bad_lines'))
  with pytest.raises(errors.UserError, match=r"bad.jsonl, line 51: no field 'targets'"):
    _take(iterator, 50)


@pytest.mark.parametrize(
  'changes, complaint',
  [
    ({'mixture_or_task_name': 'batches_row'}, "named 'batches_row'; did you mean batches_rows"),
    ({'split': 'test'}, "no split 'test', only 'train', 'validation'"),
    ({'task_feature_lengths': {'inputs': 8}}, "add 'targets' to TASK_FEATURE_LENGTHS"),
    ({'batch_size': 5}, 'BATCH_SIZE=5 is not divisible by the 2 streams'),
  ],
)
def test_mistakes_in_the_configuration_are_named(changes, complaint):
  with pytest.raises(errors.UserError, match=complaint):
    batches.train_batches(_config(**changes), num_streams=2)


def test_an_unknown_task_is_answered_with_the_nearest_names():
  with pytest.raises(errors.UserError, match='did you mean .*batches_spans'):
    batches.output_features('batches_span')
  assert set(batches.output_features('batches_mixture')) == {'inputs', 'targets'}


_ABANDON = """
import json, sys
from t5x_lite.data import batches, sources
import seqio
path = sys.argv[1]
with open(path, 'w') as file:
  file.writelines(json.dumps({'targets': str(i)}) + '\\n' for i in range(1000))
feature = seqio.Feature(seqio.ByteVocabulary())
seqio.TaskRegistry.add('t', source=sources.JsonLinesDataSource({'train': path}, ['targets']),
    preprocessors=[lambda d: d.map(lambda x: {'inputs': x['targets'], **x}), seqio.preprocessors.tokenize],
    output_features={'inputs': feature, 'targets': feature})
config = batches.DatasetConfig('t', {'inputs': 8, 'targets': 8}, batch_size=2)
iterator = batches.train_batches(config)
print(sum(int(next(iterator)['decoder_loss_weights'].sum() > 0) for _ in range(200)))
"""


@pytest.mark.slow
def test_a_process_that_leaves_its_batches_unread_ends_and_prints_nothing_else(tmp_path):
  result = subprocess.run(
    [sys.executable, '-c', _ABANDON, str(tmp_path / 'a.jsonl')],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (result.returncode, result.stdout, result.stderr) == (0, '200\n', '')


def test_without_an_encoder_inputs_and_targets_are_one_sequence_with_weights_for_targets():
  config = _config(split='validation')
  [first, *_] = batches.eval_batches(config, has_encoder=False)
  [apart, *_] = batches.eval_batches(config)
  assert {x.shape for x in first.values()} == {(4, 64)}
  np.testing.assert_array_equal(batches.inputs_of(first, 48), apart['encoder_input_tokens'])
  np.testing.assert_array_equal(batches.inputs_of(apart, 48), apart['encoder_input_tokens'])
  for row in range(4):
    targets = apart['decoder_target_tokens'][row]
    inputs = apart['encoder_input_tokens'][row]
    whole = [*inputs[inputs > 0], *targets[targets > 0]]
    np.testing.assert_array_equal(first['decoder_target_tokens'][row][: len(whole)], whole)
    weighted = first['decoder_loss_weights'][row] > 0
    np.testing.assert_array_equal(first['decoder_target_tokens'][row][weighted], whole[-5:])
    assert first['decoder_causal_attention'][row].sum() == len(whole) - 5 + 1


@pytest.mark.parametrize('pack', [False, True])
def test_batches_of_a_model_without_an_encoder_go_on_from_a_saved_position(pack):
  config = _config('batches_lines', pack=pack)
  iterator = batches.train_batches(config, has_encoder=False)
  _take(iterator, 3)
  state = iterator.get_state()
  followed = _take(iterator, 10)
  fresh = batches.train_batches(config, has_encoder=False)
  fresh.set_state(state)
  assert _equal(_take(fresh, 10), followed)
  assert ('decoder_positions' in followed[0]) == pack
  assert {x.shape for x in followed[0].values()} == {(4, 64)}


@pytest.fixture
def text_task():
  seqio.TaskRegistry.add(
    'batches_texts',
    source=sources.RowsDataSource(
      lambda split: {'targets': _rows(split)['inputs']}, ['train', 'validation']
    ),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
    output_features={
      'inputs': seqio.Feature(_FEATURE.vocabulary, required=False),
      'targets': _FEATURE,
    },
  )
  yield 'batches_texts'
  seqio.TaskRegistry.remove('batches_texts')


def test_a_language_model_may_have_targets_alone_and_learns_all_of_them(text_task):
  config = _config(text_task, task_feature_lengths={'targets': 32}, pack=True)
  batch = next(batches.train_batches(config, has_encoder=False))
  assert 'decoder_causal_attention' not in batch
  assert batch['decoder_target_tokens'].shape == (4, 32)
  np.testing.assert_array_equal(batch['decoder_loss_weights'], batch['decoder_target_tokens'] != 0)


@pytest.mark.parametrize(
  'has_encoder, complaint',
  [
    (True, 'have no inputs, which a model with an encoder needs'),
    (False, 'have no inputs: leave that out of TASK_FEATURE_LENGTHS'),
  ],
)
def test_examples_that_lack_their_inputs_are_told(text_task, has_encoder, complaint):
  with pytest.raises(errors.UserError, match=complaint):
    batches.train_batches(_config(text_task), has_encoder=has_encoder)


def test_a_batch_of_tokens_has_targets_right_after_the_inputs_where_there_is_no_encoder():
  inputs = np.array([[5, 6, 0], [0, 0, 0], [7, 8, 9]], np.int32)
  targets = np.array([[3, 1], [0, 0], [1, 0]], np.int32)
  batch = batches.of_tokens(inputs, targets, has_encoder=False)
  assert {name: x.tolist() for name, x in batch.items()} == {
    'decoder_causal_attention': [[1, 1, 1, 0, 0], [0] * 5, [1, 1, 1, 1, 0]],
    'decoder_target_tokens': [[5, 6, 3, 1, 0], [0] * 5, [7, 8, 9, 1, 0]],
    'decoder_input_tokens': [[0, 5, 6, 3, 1], [0] * 5, [0, 7, 8, 9, 1]],
    'decoder_loss_weights': [[0, 0, 1, 1, 0], [0] * 5, [0, 0, 0, 1, 0]],
  }
  np.testing.assert_array_equal(batches.inputs_of(batch, 3), inputs)


def test_packed_examples_are_not_answered():
  batch = batches.of_tokens(np.ones((1, 3), np.int32), np.ones((1, 2), np.int32), has_encoder=True)
  packed = batch | {'decoder_segment_ids': np.ones((1, 2), np.int32)}
  with pytest.raises(errors.UserError, match='one example a row, but these are packed'):
    batches.inputs_of(packed, 3)
