"""Metrics on disk: valid JSON whatever the values, and every step once whatever was killed."""

import json
import math
import resource
import shutil
import time

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.monitoring import metrics


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def train(tmp_path):
  return tmp_path / 'metrics' / 'train.jsonl'


def _write_steps(model_dir, steps, **kwargs):
  with metrics.MetricWriter(model_dir, tensorboard=False, **kwargs) as writer:
    for step in steps:
      writer.write('train', step, {'loss': step / 2})


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path, train):
  writer = metrics.MetricWriter(tmp_path, tensorboard=False)
  writer.write('train', 10, {'loss': np.float32(0.5), 'tokens': jnp.asarray(3), 'mfu': None})
  (line,) = _lines(train)
  assert abs(line.pop('time') - time.time()) < 10
  assert line == {'step': 10, 'loss': 0.5, 'tokens': 3.0, 'mfu': None}


def test_splits_have_files_of_their_own(tmp_path):
  with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write('train', 1, {'loss': 1})
    writer.write('eval', 1, {'sst2/accuracy': 0.5})
  assert sorted(path.name for path in (tmp_path / 'metrics').iterdir()) == [
    'eval.jsonl',
    'train.jsonl',
  ]


def test_nan_and_infinity_are_valid_json_and_read_back(tmp_path, train):
  values = {'a': math.nan, 'b': math.inf, 'c': -math.inf, 'd': 1.5, 'e': None, 'f': 'text'}
  with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write('train', 1, values)
  strict = json.loads(train.read_text(), parse_constant=pytest.fail)
  assert (strict['a'], strict['b'], strict['c']) == ('NaN', 'Infinity', '-Infinity')
  (line,) = metrics.read(train)
  del line['step'], line['time']
  np.testing.assert_equal(line, values)


@pytest.mark.parametrize('name', ['step', 'time'])
def test_names_that_every_line_has_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match=name):
    metrics.MetricWriter(tmp_path, tensorboard=False).write('train', 1, {name: 1.0})


def test_a_resumed_run_repeats_no_step(tmp_path, train):
  _write_steps(tmp_path, range(0, 60, 10))
  _write_steps(tmp_path, [40, 50], resume_step=30)
  assert [line['step'] for line in _lines(train)] == [0, 10, 20, 30, 40, 50]


def test_a_run_that_starts_afresh_keeps_nothing_but_step_zero(tmp_path, train):
  _write_steps(tmp_path, [0, 10])
  _write_steps(tmp_path, [], resume_step=0)
  assert [line['step'] for line in _lines(train)] == [0]


def test_evaluation_keeps_all_lines(tmp_path, train):
  _write_steps(tmp_path, [10, 20])
  _write_steps(tmp_path, [5])
  assert [line['step'] for line in _lines(train)] == [10, 20, 5]


@pytest.mark.parametrize('resume_step', [None, 20])
@pytest.mark.parametrize('rest', ['{"step": 2', '{"step": 20, "time": 1.0, "loss": 10}', 'nul'])
def test_half_a_last_line_is_survived(tmp_path, train, resume_step, rest):
  _write_steps(tmp_path, [10])
  with open(train, 'a') as file:
    file.write(rest)
  _write_steps(tmp_path, [20], resume_step=resume_step)
  steps = [line['step'] for line in metrics.read(train)]
  assert steps[0] == 10 and steps[-1] == 20
  if resume_step is not None:
    assert [line['step'] for line in _lines(train)] == [10, 20]


def test_lines_are_dropped_in_one_go(tmp_path, train, monkeypatch):
  _write_steps(tmp_path, [10, 20])
  before = train.read_bytes()

  def killed(*unused):
    raise KeyboardInterrupt

  monkeypatch.setattr(metrics.os, 'replace', killed)
  with pytest.raises(KeyboardInterrupt):
    metrics.drop_later_steps(train, 10)
  assert train.read_bytes() == before


def test_a_file_with_nothing_to_drop_is_left_alone(tmp_path, train):
  _write_steps(tmp_path, [10, 20])
  before = train.stat().st_ino
  metrics.drop_later_steps(train, 20)
  assert train.stat().st_ino == before


@pytest.mark.parametrize('last_step', [0, 7, 4999, 5000, 9000])
def test_the_end_of_a_long_file_is_cut_off_without_reading_the_rest(tmp_path, last_step):
  path = tmp_path / 'train.jsonl'
  lines = [json.dumps({'step': step, 'loss': 'x' * (step % 90)}) + '\n' for step in range(1, 5001)]
  path.write_text(''.join(lines) + '{"step": 5')
  assert metrics.last_step(path) == 5000
  metrics.cut_later_steps(path, last_step)
  assert path.read_text() == ''.join(lines[:last_step])
  assert metrics.last_step(path) == (min(last_step, 5000) or None)


def test_a_file_that_is_not_there_has_no_last_step(tmp_path):
  assert metrics.last_step(tmp_path / 'train.jsonl') is None


def test_lines_that_a_full_disk_refuses_are_written_when_there_is_space(tmp_path, train):
  said = []
  no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  with metrics.MetricWriter(tmp_path, say=said.append) as writer:
    for step in range(5):
      writer.write('train', step, {'loss': 1.0})
    # In the middle of the next line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (train.stat().st_size + 10, no_limit[1]))
    try:
      for step in range(5, 9):
        writer.write('train', step, {'loss': 1.0})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
    assert len(said) == 1 and 'metrics cannot be written to' in said[0]
    writer.write('train', 9, {'loss': 1.0})
  assert [line['step'] for line in _lines(train)] == list(range(10))
  assert len(said) == 1


@pytest.mark.parametrize(('seconds', 'times'), [(600, 1), (0, 3)])
def test_a_disk_that_stays_full_is_told_of_now_and_then(
  monkeypatch, tmp_path, train, seconds, times
):
  monkeypatch.setattr(metrics, '_SECONDS_BETWEEN_WARNINGS', seconds)
  train.parent.mkdir()
  train.symlink_to('/dev/full')
  said = []
  writer = metrics.MetricWriter(tmp_path, say=said.append, tensorboard=False)
  for step in range(3):
    writer.write('train', step, {'loss': 1.0})
  assert len(said) == times


def test_without_anyone_to_tell_a_full_disk_is_an_error(tmp_path, train):
  train.parent.mkdir()
  train.symlink_to('/dev/full')
  with pytest.raises(OSError, match='No space left'):
    metrics.MetricWriter(tmp_path).write('train', 1, {'loss': 1.0})


@pytest.mark.parametrize('remove', [shutil.rmtree, lambda path: path.rename(f'{path}.gone')])
def test_a_file_that_vanished_is_written_again_from_its_first_line(tmp_path, remove):
  run = tmp_path / 'run'
  with metrics.MetricWriter(run) as writer:
    writer.write('train', 1, {'loss': 1.0})
    remove(run)
    writer.write('train', 2, {'loss': 1.0})
  assert [line['step'] for line in _lines(run / 'metrics' / 'train.jsonl')] == [1, 2]
  assert len(list((run / 'tensorboard' / 'train').iterdir())) == 1


def test_other_hosts_write_nothing(tmp_path):
  with metrics.MetricWriter(tmp_path / 'run', active=False) as writer:
    writer.write('train', 1, {'loss': 1.0})
    writer.flush()
  assert not (tmp_path / 'run').exists()


def test_tensorboard_gets_the_same_numbers(tmp_path, caplog):
  with metrics.MetricWriter(tmp_path, resume_step=0) as writer:
    writer.write('train', 10, {'loss': 0.5, 'norm': math.nan, 'mfu': None, 'note': 'text'})
    writer.flush()
  (events,) = (tmp_path / 'tensorboard' / 'train').iterdir()
  content = events.read_bytes()
  assert b'loss' in content
  assert not any(name in content for name in (b'norm', b'mfu', b'note'))
  assert not caplog.records
