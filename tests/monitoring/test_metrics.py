"""Metrics on disk: valid JSON whatever the values, and every step once whatever was killed."""

import json
import math
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
