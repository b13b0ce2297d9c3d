"""What a run skips, counts, records and tells while it trains."""

import gzip
import json
import shutil
import sys
import time

import byte_runs
import pytest
import seqio

PRETRAIN = ('train', *byte_runs.PRETRAIN, '--gin.EVAL_PERIOD=None')
# A user's module: one of the batches is late.
STALLING = """
import time
import numpy as np
import seqio
import tensorflow as tf
from t5x_lite.data import sources

def late(text):
  if text == b'late':
    time.sleep(2.5)
  return text

@seqio.map_over_dataset
def wait(example):
  text = tf.numpy_function(late, [example['text']], tf.string)
  return {'targets': tf.ensure_shape(text, [])}

seqio.TaskRegistry.add(
  'stalling',
  source=sources.TextLinesDataSource({'train': 'lines.txt'}),
  preprocessors=[
    wait,
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features={'targets': seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)},
  shuffle_buffer_size=1,
)
"""


def lines_of(run):
  lines = (run / 'metrics' / 'train.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def account(run):
  return json.loads((run / 'metrics' / 'goodput.json').read_text())


@pytest.mark.slow
def test_a_guard_is_turned_on_resumed_and_turned_off(main, tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'second'
  guard = ('--gin.SKIPPED_UPDATES=20', '--gin.SPIKE_FACTOR=1.01', '--gin.GuardConfig.window=2')

  def train(run, steps, *arguments):
    status, _, printed = main(
      *PRETRAIN, f'--gin.MODEL_DIR={run}', f'--gin.TRAIN_STEPS={steps}', *arguments
    )
    assert status == 0, printed
    return printed

  train(first, 4)
  shutil.copytree(first, second)
  printed = train(first, 16, *guard)
  lines = {line['step']: line for line in lines_of(first)}
  skipped = [lines[step]['skipped_updates'] for step in range(5, 17)]
  assert 0 < skipped[-1] < 12 and sorted(skipped) == skipped
  assert printed.count('more than SPIKE_FACTOR=1.01 times the median') == skipped[-1]

  train(second, 9, *guard)
  assert 0 < lines[9]['skipped_updates'] or 0 < lines[10]['skipped_updates']
  train(second, 16, *guard)
  for line in lines_of(second):
    expected = lines[line['step']]
    for name in ('loss', 'gradient_norm', 'skipped_updates', 'skipped_in_a_row'):
      assert line.get(name) == expected.get(name)

  train(first, 17)  # Off again.
  assert 'skipped_updates' not in lines_of(first)[-1]


@pytest.mark.slow
def test_some_steps_are_recorded_and_the_time_of_all_is_accounted_for(command, tmp_path):
  def train(steps):
    process = command(
      *PRETRAIN, f'--gin.MODEL_DIR={tmp_path}', '--gin.PROFILE_STEPS=(3, 4)',
      f'--gin.TRAIN_STEPS={steps}', shared=True,
    )  # fmt: skip
    _, printed = process.communicate()
    assert process.returncode == 0, printed
    return printed

  folder = tmp_path / 'tensorboard' / 'train'
  assert f'the profile of steps 3 to 4 is in {folder}' in train(6)
  # For TensorBoard, and for Perfetto.
  [space] = folder.glob('plugins/profile/*/*.xplane.pb')
  assert b'train_step' in space.read_bytes()
  with gzip.open(space.with_name('perfetto_trace.json.gz')) as file:
    events = json.load(file)['traceEvents']
  assert any('train_step' in event.get('name', '') for event in events)
  steps = [event['args']['step_num'] for event in events if event.get('name') == 'train']
  assert {'3', '4'} <= set(steps)

  first = account(tmp_path)
  assert first['finished'] and first['seconds']['compile'] > 0
  # As if it had been killed, ten seconds ago.
  first |= {'finished': False, 'time': time.time() - 10}
  (tmp_path / 'metrics' / 'goodput.json').write_text(json.dumps(first))
  [said] = [line for line in train(8).splitlines() if line.startswith('goodput')]
  assert 'restart' in said and said.endswith('(restarts 1, repeated steps 0)')
  second = account(tmp_path)
  assert second['seconds']['restart'] > 10
  passed = second['time'] - first['time']
  assert sum(second['seconds'].values()) == pytest.approx(
    sum(first['seconds'].values()) + passed, abs=0.02
  )


def test_more_skipped_updates_in_a_row_than_are_allowed_stop_the_run(main, tmp_path):
  status, _, printed = main(
    *PRETRAIN, f'--gin.MODEL_DIR={tmp_path}', '--gin.TRAIN_STEPS=9', '--gin.CHECKPOINT_PERIOD=1',
    '--gin.LEARNING_RATE=1e30', '--gin.SKIPPED_UPDATES=2',
  )  # fmt: skip
  assert status == 2
  *_, first, second, last = printed.splitlines()
  assert '; 1 skipped in a row, SKIPPED_UPDATES=2' in first
  assert '; 2 skipped in a row, SKIPPED_UPDATES=2' in second
  assert '; 3 skipped in a row, SKIPPED_UPDATES=2; the last good checkpoint is' in last
  assert lines_of(tmp_path)[-1]['skipped_updates'] == 3


@pytest.mark.slow
def test_a_run_that_stands_still_says_where_and_counts_the_time(main, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [path for path in sys.path if path])
  (tmp_path / 'stalling_module.py').write_text(STALLING)
  lines = [f'line {n}' for n in range(4000)]
  lines[3000] = 'late'
  (tmp_path / 'lines.txt').write_text('\n'.join(lines))
  try:
    status, _, printed = main(
      'train', *byte_runs.MODEL, '--gin_file=runs/pretrain.gin', '--module=stalling_module',
      '--gin.T5Config.num_encoder_layers=0', '--gin.T5Config.architecture=language_model',
      '--gin.MIXTURE_OR_TASK_NAME=stalling', "--gin.TASK_FEATURE_LENGTHS={'targets': 16}",
      '--gin.PACK=False', '--gin.BATCH_SIZE=32', '--gin.EVAL_PERIOD=None', '--gin.MODEL_DIR=run',
      '--gin.TRAIN_STEPS=120', '--gin.STALL_SECONDS=0.6',
    )  # fmt: skip
  finally:
    seqio.TaskRegistry.remove('stalling')
    del sys.modules['stalling_module']
  assert status == 0, printed
  assert '(STALL_SECONDS=0.6); the run goes on waiting' in printed
  assert 'training/prefetch.py' in printed and 'the run goes on after' in printed
  assert 'training/prefetch.py' in (tmp_path / 'run' / 'stalls.txt').read_text()
  seconds = account(tmp_path / 'run')['seconds']
  assert seconds['data_wait'] > 0.6 and seconds['compile'] > 0
  [said] = [line for line in printed.splitlines() if line.startswith('goodput')]
  assert 'data wait' in said and 'restart' not in said
