"""Writes the caches of tasks with Apache Beam, on this machine or on many. Needs the extra `cache`.

What a cache holds is said in `cached_tasks`. The parts of the pipeline are seqio's and Beam's own, but for the
array_record files: seqio can write these nowhere but to a local disk.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence

import seqio
import tensorflow as tf
from array_record.python import array_record_module

from t5x_lite import choices, errors, modules
from t5x_lite.data import cached_tasks, model_vocabulary, sources

# Beam tells of every client of Google's that is not installed.
logging.disable(logging.WARNING)
try:
  import apache_beam as beam
  from apache_beam.io import filebasedsink
  from apache_beam.options import pipeline_options
  from seqio import beam_utils
finally:
  logging.disable(logging.NOTSET)
# And of how seqio's functions are written, and of each exception, which it raises as well.
logging.getLogger('apache_beam.transforms.core').setLevel(logging.ERROR)
logging.getLogger('apache_beam.runners.common').setLevel(logging.CRITICAL)

# Files of each split, of either form; reading without array_record shuffles them.
_MIN_FILES = 16
# What a cache consists of, and what Beam leaves of one when it is interrupted.
_OURS = re.compile(
  r'COMPLETED|(info|stats)\..*\.json|.*\.(tfrecord|array_record)-\d+-of-\d+|beam-temp-.*'
)


def cache_task(
  task: seqio.Task,
  splits: Sequence[str],
  *,
  options: Sequence[str] = (),
  task_modules: Sequence[str] = (),
) -> dict[str, int]:
  """Caches a task in `cached_tasks.cache_directory()`; what is there of it is removed first.

  Args:
    task: it has a `seqio.CacheDatasetPlaceholder`.
    splits: its splits.
    options: of the pipeline, as Beam's command line has them: '--runner=FlinkRunner'.
    task_modules: modules for the workers to import, which register the task.

  Returns:
    The number of examples of each split.

  Raises:
    UserError: if an option, the folder or the task's data is not as it must be.
  """
  folder = task_folder(task)
  runner_options = _parse(options)
  try:
    task.preprocessors  # noqa: B018 - seqio checks what stands before the placeholder.
  except ValueError as error:
    raise errors.UserError(str(error)) from None
  pipeline = beam.Pipeline(options=runner_options)
  for split in splits:
    _write_split(pipeline, task, split, folder, task_modules)
  _empty(folder)
  with _readable_errors(task):
    state = pipeline.run().wait_until_finish()
  if state != beam.runners.runner.PipelineState.DONE:
    raise errors.UserError(f'the pipeline that caches {task.name!r} ended in state {state}')
  numbers = {split: _num_examples(task, split, folder) for split in splits}
  cached_tasks.write_completed(task, folder)
  return numbers


def task_folder(task: seqio.Task) -> str:
  """The folder of a task's cache."""
  name = seqio.get_task_dir_from_name(task.name)
  return os.path.join(cached_tasks.cache_directory(), name)


def is_complete(task: seqio.Task) -> bool:
  """Whether the task is cached already."""
  return tf.io.gfile.exists(cached_tasks.completed_path(task_folder(task)))


def _parse(options):
  """Beam's own reading of its options, whose parser would print its usage and exit."""
  printed = io.StringIO()
  try:
    with contextlib.redirect_stderr(printed):
      parsed = pipeline_options.PipelineOptions(list(options))
      runner = parsed.get_all_options(retain_unknown_options=True)['runner']
      beam.runners.create_runner(runner or 'DirectRunner')
  except SystemExit:
    raise errors.UserError(
      f'--pipeline_options: {printed.getvalue().strip().rpartition("error: ")[2]}'
    ) from None
  except (ValueError, ImportError, AttributeError) as error:
    raise errors.UserError(f'--pipeline_options: {error}') from None
  return parsed


def _empty(folder):
  """Makes the folder and removes the files of an earlier cache, first of all what calls it whole."""
  try:
    tf.io.gfile.makedirs(folder)
    completed = cached_tasks.completed_path(folder)
    # Whether it can be written is to be known now, and not when Beam has worked for hours.
    with tf.io.gfile.GFile(completed + '.new', 'w') as file:
      file.write('')
    tf.io.gfile.remove(completed + '.new')
    names = [name.rstrip('/') for name in tf.io.gfile.listdir(folder)]
    for name in sorted(filter(_OURS.fullmatch, names), key=lambda name: name != 'COMPLETED'):
      path = os.path.join(folder, name)
      (tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove)(path)
  except tf.errors.OpError as error:
    raise errors.UserError(
      f'the cache cannot be written to {folder} ({error.message}): give another --cache_dir'
    ) from None


def _write_split(pipeline, task, split, folder, task_modules):
  """Adds to the pipeline what writes the files of one split."""
  begin = functools.partial(_begin_on_worker, tuple(task_modules), choices.current())
  preprocessed = beam_utils.PreprocessTask(task, split, setup_fn=begin)
  num_files = max(len(preprocessed.shards), _MIN_FILES)
  examples = pipeline | f'preprocess {split}' >> preprocessed
  records = (
    examples
    | f'serialize {split}' >> beam.Map(lambda x: seqio.dict_to_tfexample(x).SerializeToString())
    | f'mix {split}' >> beam.Reshuffle()  # So that each file has examples from all of the split.
  )
  _ = records | f'write {split} as TFRecords' >> beam.io.WriteToTFRecord(
    seqio.get_cached_tfrecord_prefix(folder, split), num_shards=num_files
  )
  sink = _ArrayRecordSink(
    cached_tasks.array_record_prefix(folder, split),
    coder=beam.coders.BytesCoder(),
    num_shards=num_files,
  )
  _ = records | f'write {split} as array_record' >> beam.io.Write(sink)
  _ = (
    examples
    | f'describe {split}' >> beam_utils.GetInfo(num_files)
    | f'write info of {split}' >> beam_utils.WriteJson(seqio.get_cached_info_path(folder, split))
  )
  features = {  # As a worker can know them before anything was chosen there.
    name: dataclasses.replace(feature, vocabulary=model_vocabulary.resolved(feature.vocabulary))
    for name, feature in task.output_features.items()
  }
  _ = (
    examples
    | f'count {split}' >> beam_utils.GetStats(features)
    | f'write stats of {split}' >> beam_utils.WriteJson(seqio.get_cached_stats_path(folder, split))
  )


def _begin_on_worker(task_modules, chosen):
  """Has a worker know the tasks as they are known here, and choose what was chosen."""
  choices.begin(**dataclasses.asdict(chosen))
  modules.import_all(task_modules)


class _ArrayRecordSink(filebasedsink.FileBasedSink):
  """Files of any file system that Beam knows; array_record itself writes local ones, which are copied."""

  def open(self, temp_path):
    local = tempfile.NamedTemporaryFile(suffix='.array_record')
    # Each record by itself, so that one can be read without others.
    writer = array_record_module.ArrayRecordWriter(local.name, 'group_size:1')
    return writer, local, super().open(temp_path)

  def write_encoded_record(self, file_handle, value):
    writer, _, _ = file_handle
    writer.write(value)

  def close(self, file_handle):
    writer, local, output = file_handle
    writer.close()
    with local:
      shutil.copyfileobj(local, output)
    super().close(output)


def _num_examples(task, split, folder):
  with tf.io.gfile.GFile(seqio.get_cached_stats_path(folder, split)) as file:
    number = json.load(file).get('examples', 0)
  if not number:
    raise errors.UserError(f'split {split!r} of {task.name!r} has no examples to cache')
  return number


@contextlib.contextmanager
def _readable_errors(task):
  """Makes what a source says of its data, which Beam passes on in other exceptions, a UserError."""
  try:
    yield
  except Exception as error:
    if message := sources.message_in(error):
      raise errors.UserError(f'{task.name!r} cannot be cached: {message}') from None
    raise
