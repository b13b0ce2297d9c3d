"""`t5x-lite tasks cache`, and runs that read what it wrote."""

import json
import os
import signal
import sys
import time

import byte_runs
import pytest
import seqio

from t5x_lite import cli, data

pytest.importorskip('apache_beam', reason="needs 't5x_lite[cache]'")
pytest.importorskip('array_record', reason="needs 't5x_lite[cache]'")

BYTE_TASKS = f'--module={byte_runs.MODULE}'
# A user's module: a mixture of two tasks, one of which has a place for a cache.
MODULE = """
import seqio
from t5x_lite.data import sources

FEATURES = {'targets': seqio.Feature(seqio.ByteVocabulary())}
SOURCE = sources.JsonLinesDataSource({'train': 'rows.jsonl'}, ['targets'])
seqio.TaskRegistry.add(
  'caching_with', source=SOURCE, output_features=FEATURES,
  preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()],
)
seqio.TaskRegistry.add(
  'caching_without', source=SOURCE, output_features=FEATURES,
  preprocessors=[seqio.preprocessors.tokenize],
)
seqio.TaskRegistry.add(
  'caching_late', source=SOURCE, output_features=FEATURES,
  preprocessors=[
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos_after_trim,
    seqio.CacheDatasetPlaceholder(),
  ],
)
seqio.MixtureRegistry.add('caching_mixture', [('caching_with', 1.0), ('caching_without', 1.0)])
"""


@pytest.fixture(scope='module')
def cache_dir(review_files, tmp_path_factory):
  """Folder with the cache of both byte tasks."""
  del review_files
  folder = tmp_path_factory.mktemp('caches')
  for name in ('byte_span_corruption', 'byte_sentiment'):
    assert cli.main(['tasks', 'cache', name, BYTE_TASKS, f'--cache_dir={folder}']) == 0
  return folder


@pytest.fixture
def user(tmp_path, monkeypatch):
  """Writes rows.jsonl in a working directory with MODULE, and names the flags for it."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [path for path in sys.path if path])
  (tmp_path / 'caching_module.py').write_text(MODULE)

  def write(rows):
    (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return '--module=caching_module', f'--cache_dir={tmp_path / "caches"}'

  yield write
  if sys.modules.pop('caching_module', None):
    seqio.MixtureRegistry.remove('caching_mixture')
    for name in ('with', 'without', 'late'):
      seqio.TaskRegistry.remove(f'caching_{name}')


@pytest.mark.slow
def test_a_run_on_a_cached_task_goes_on_exactly_where_it_was(cache_dir, main, tmp_path):
  def train(name, steps):
    status, _, errors = main(
      *('train', *byte_runs.PRETRAIN, f'--cache_dir={cache_dir}', '--gin.USE_CACHED=True'),
      *('--gin.EVAL_PERIOD=None', f'--gin.MODEL_DIR={tmp_path / name}'),
      f'--gin.TRAIN_STEPS={steps}',
    )
    assert status == 0, errors

  train('whole', 40)  # 300 reviews are an epoch.
  train('stopped', 23)
  train('stopped', 40)
  losses = byte_runs.losses(tmp_path / 'whole')
  assert len(losses) == 40
  assert byte_runs.losses(tmp_path / 'stopped') == losses


def test_data_is_measured_online_and_cached(cache_dir, main):
  status, printed, errors = main(
    *('bench', 'data', '--json', *byte_runs.SPAN_CORRUPTION, f'--cache_dir={cache_dir}'),
    *('--gin.USE_CACHED=True', '--gin.STEPS=2', '--gin.bench.data.seconds=0.1'),
  )
  assert status == 0, errors
  figures = json.loads(printed)
  online, cached = (
    figures[f'{source}_1_worker_tokens_per_second'] for source in ('online', 'cached')
  )
  assert figures['cached_to_online_1_worker'] == pytest.approx(cached / online)
  several = max(2, os.cpu_count())
  assert figures[f'cached_{several}_workers_to_1'] > 0


def test_a_cache_is_not_made_again_unless_asked_for(cache_dir, main):
  completed = cache_dir / 'byte_sentiment' / 'COMPLETED'
  before = completed.read_text()
  arguments = ('tasks', 'cache', 'byte_sentiment', BYTE_TASKS, f'--cache_dir={cache_dir}')
  status, printed, _ = main(*arguments)
  assert (status, completed.read_text()) == (0, before)
  assert f'is cached in {completed.parent}; --overwrite caches it again' in printed
  files = sorted(path.name for path in completed.parent.iterdir())
  status, printed, _ = main(*arguments, '--overwrite')
  assert status == 0 and completed.read_text() not in ('', before)
  assert '300 of train, 20 of validation' in printed
  assert sorted(path.name for path in completed.parent.iterdir()) == files


def test_the_tasks_of_a_mixture_that_have_a_place_for_a_cache_are_cached(user, main, tmp_path):
  flags = user([{'targets': str(i)} for i in range(30)])
  status, printed, errors = main('tasks', 'cache', 'caching_mixture', *flags)
  assert status == 0, errors
  lines = printed.splitlines()
  assert lines == [
    f'caching_with: 30 of train cached in {tmp_path}/caches/caching_with',
    'caching_without: not cached, for it has no seqio.CacheDatasetPlaceholder()',
  ]


def test_caching_that_fails_leaves_nothing_that_is_taken_for_a_cache(user, main, tmp_path):
  flags = user([{'targets': str(i)} for i in range(30)])
  assert main('tasks', 'cache', 'caching_with', *flags)[0] == 0
  user([{'targets': '1'}, {'text': '2'}])
  status, _, errors = main('tasks', 'cache', 'caching_with', '--overwrite', *flags)
  assert (status, errors.count('\n')) == (2, 1)
  assert "rows.jsonl, line 2: no field 'targets'" in errors
  assert not (tmp_path / 'caches' / 'caching_with' / 'COMPLETED').exists()
  user([{'targets': '1'}])
  status, printed, _ = main('tasks', 'cache', 'caching_with', *flags)
  assert status == 0 and '1 of train cached' in printed
  names = [path.name for path in (tmp_path / 'caches' / 'caching_with').iterdir()]
  assert len(names) == 16 * 2 + 3 and not any(name.startswith('beam') for name in names)


@pytest.mark.slow
def test_caching_that_is_killed_leaves_nothing_that_is_taken_for_a_cache(command, main, tmp_path):
  arguments = ('tasks', 'cache', 'byte_sentiment', BYTE_TASKS, f'--cache_dir={tmp_path}')
  process = command(*arguments)
  while not list(tmp_path.glob('byte_sentiment/beam-temp-*')):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  folder = tmp_path / 'byte_sentiment'
  assert not (folder / 'COMPLETED').exists()
  process = command(
    *('bench', 'data', *byte_runs.SENTIMENT, f'--cache_dir={tmp_path}', '--gin.USE_CACHED=True')
  )
  _, errors = process.communicate()
  assert process.returncode == 2
  assert "no cache of 'byte_sentiment' is found" in errors
  assert '`t5x-lite tasks cache byte_sentiment`' in errors

  assert main(*arguments)[0] == 0
  assert (folder / 'COMPLETED').exists() and not list(folder.glob('beam-temp-*'))


@pytest.mark.parametrize(
  'arguments, complaint',
  [
    ([], 'which task? t5x-lite tasks cache NAME'),
    (['caching_wth'], "no task or mixture is named 'caching_wth'; did you mean caching_with"),
    (['caching_without'], "'caching_without' has no seqio.CacheDatasetPlaceholder(): put one"),
    (['caching_late'], 'has a `sequence_length` argument but occurs before `CacheDatasetPlac'),
    (['caching_with', '--cache_dir=rows.jsonl/x'], 'rows.jsonl/x/caching_with ('),
    (['caching_with', '--pipeline_options=--runner=NoRunner'], '--pipeline_options: Unexpected'),
    (
      ['caching_with', '--pipeline_options=--direct_num_workers=x'],
      "--pipeline_options: argument --direct_num_workers: invalid int value: 'x'",
    ),
    (['caching_with', "--pipeline_options=--a 'b"], '--pipeline_options'),
  ],
)
def test_mistakes_are_told_in_one_line(user, main, arguments, complaint):
  status, printed, errors = main(
    'tasks', 'cache', *arguments[:1], *user([{'targets': '1'}]), *arguments[1:]
  )
  assert (status, printed, errors.count('\n')) == (2, '', 1)
  assert complaint in errors


def test_a_split_without_examples_is_told(user, main):
  status, _, errors = main('tasks', 'cache', 'caching_with', *user([]))
  assert (status, errors.count('\n')) == (2, 1)
  assert "split 'train' of 'caching_with' has no examples to cache" in errors


def test_without_apache_beam_the_extra_is_named(user, main, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  monkeypatch.delitem(sys.modules, 't5x_lite.data.caching', raising=False)
  monkeypatch.delattr(data, 'caching', raising=False)
  status, _, errors = main('tasks', 'cache', 'caching_with', *user([{'targets': '1'}]))
  assert status == 2
  assert "pip install 't5x_lite[cache]'" in errors
