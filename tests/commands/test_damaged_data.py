"""Damaged records in the middle of training: named, then left out if that is allowed."""

import json
import pathlib
import sys

import byte_runs
import pytest
import seqio

from t5x_lite.data import cached_tasks

# A user's module: rows in order, that a few are read ahead of the batch.
MODULE = """
import seqio
from t5x_lite.data import sources

FEATURES = {'targets': seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)}
seqio.TaskRegistry.add(
  'damaged_rows',
  source=sources.JsonLinesDataSource({'train': 'rows.jsonl'}, ['targets']),
  preprocessors=[
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features=FEATURES, shuffle_buffer_size=2,
)
"""


@pytest.fixture
def train(main, tmp_path, monkeypatch):
  """Function that trains on rows.jsonl in the working directory: (status, what it printed)."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [path for path in sys.path if path])
  (tmp_path / 'damaged_module.py').write_text(MODULE)
  write_rows(1000)

  def run(name, *arguments):
    status, _, printed = main(
      *('train', *byte_runs.MODEL, '--gin.T5Config.num_encoder_layers=0'),
      '--gin.T5Config.architecture=language_model',
      *('--gin_file=runs/pretrain.gin', '--module=damaged_module', '--cache_dir=caches'),
      *('--gin.MIXTURE_OR_TASK_NAME=damaged_rows', "--gin.TASK_FEATURE_LENGTHS={'targets': 40}"),
      *('--gin.BATCH_SIZE=8', '--gin.PACK=False', '--gin.EVAL_PERIOD=None'),
      *('--gin.CHECKPOINT_PERIOD=10', f'--gin.MODEL_DIR={name}', *arguments),
    )
    return status, printed

  yield run
  if sys.modules.pop('damaged_module', None):
    seqio.TaskRegistry.remove('damaged_rows')


def write_rows(number):
  lines = [json.dumps({'targets': f'row {n} ' + 'abc' * (n % 9)}) for n in range(number)]
  pathlib.Path('rows.jsonl').write_text('\n'.join(lines))


def damage_line(number):
  """Cuts a line short."""
  lines = pathlib.Path('rows.jsonl').read_text().splitlines()
  lines[number - 1] = lines[number - 1][:12]
  pathlib.Path('rows.jsonl').write_text('\n'.join(lines))


@pytest.mark.slow
def test_a_damaged_line_stops_the_run_which_goes_on_without_it_if_that_is_allowed(train, tmp_path):
  damage_line(700)
  place = 'rows.jsonl, line 700: not JSON: Expecting value at column 13'
  status, printed = train('run', '--gin.TRAIN_STEPS=160')
  assert (status, printed.count(place)) == (2, 1), printed
  assert printed.endswith('; damaged records: 1, SKIPPED_RECORDS=0 of which may be left out\n')
  stopped = max(byte_runs.losses(tmp_path / 'run'))
  assert 10 <= stopped < 700 / 8

  allowed = '--gin.SKIPPED_RECORDS=1'
  status, printed = train('run', '--gin.TRAIN_STEPS=110', allowed)
  assert status == 0, printed
  assert f'{place}; left out, 1 of SKIPPED_RECORDS=1' in printed
  # The second epoch, in another process, leaves out the same one, and does not count it again.
  status, printed = train('run', '--gin.TRAIN_STEPS=160', allowed)
  assert status == 0 and 'left out' not in printed
  assert train('whole', '--gin.TRAIN_STEPS=160', allowed)[0] == 0
  losses = byte_runs.losses(tmp_path / 'whole')
  assert len(losses) == 160 and byte_runs.losses(tmp_path / 'run') == losses


@pytest.mark.slow
@pytest.mark.parametrize(
  'form, byte, place', [('array_record', 100, 'record 0'), ('tfrecord', 20, 'byte 0')]
)
def test_a_damaged_record_of_a_cache_is_named_and_may_be_left_out(
  train, main, tmp_path, monkeypatch, form, byte, place
):
  pytest.importorskip('apache_beam', reason="needs 't5x_lite[cache]'")
  pytest.importorskip('array_record', reason="needs 't5x_lite[cache]'")
  write_rows(200)
  flags = ('--module=damaged_module', '--cache_dir=caches')
  assert main('tasks', 'cache', 'damaged_rows', *flags)[0] == 0
  if form == 'tfrecord':
    monkeypatch.setattr(cached_tasks, '_can_read_array_records', lambda: False)
  path = tmp_path / 'caches' / 'damaged_rows' / f'train.{form}-00003-of-00016'
  content = bytearray(path.read_bytes())
  content[byte] ^= 1
  path.write_bytes(content)
  place = f'{path.name}, {place}: '

  arguments = ('--gin.USE_CACHED=True', '--gin.TRAIN_STEPS=30')
  status, printed = train('run', *arguments)
  assert status == 2 and place in printed.splitlines()[-1]
  status, printed = train('run', *arguments, '--gin.SKIPPED_RECORDS=1')
  assert status == 0 and place in printed and 'left out, 1 of SKIPPED' in printed
