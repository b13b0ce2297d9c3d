"""Tasks that were cached: where their caches are, and how training reads them in any order.

`t5x-lite tasks cache NAME` writes, in CACHE_DIR/NAME, what `seqio_cache_tasks` does: the examples of each split
before its random preprocessing, as TFRecords, their description, and COMPLETED last of all. Beside them it writes
the same examples as array_record files, of which any record can be read by its number. Where these are, and the
package array_record is, training shuffles all examples anew in every epoch, and finds any position at once.
"""

import functools
import json
import os
import uuid

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite import choices, errors
from t5x_lite.data import model_vocabulary, sources, tfrecords, vocabulary

# Records read by one call, which reads them in several threads.
_RECORDS_AT_ONCE = 256


def cache_directory() -> str:
  """Where tasks are cached: `choices.cache_dir`, or `tasks` in the cache folder."""
  directory = choices.current().cache_dir
  if not directory:
    return os.path.join(vocabulary.cache_directory(), 'tasks')
  # Beam's workers may run in other folders; a bucket is absolute as it is.
  return directory if '://' in directory else os.path.abspath(os.path.expanduser(directory))


def search_cache_directory() -> None:
  """Has seqio look for caches in `cache_directory()` first."""
  others = [folder for folder in seqio.get_global_cache_dirs() if folder != cache_directory()]
  seqio.set_global_cache_dirs([cache_directory(), *others])


def completed_path(folder: str) -> str:
  """The file that says that the cache in `folder` is whole, and which cache it is."""
  return os.path.join(folder, 'COMPLETED')


def write_completed(task: seqio.Task, folder: str) -> None:
  """Says that the cache of `task` in `folder` is whole, under a name that no other cache has."""
  content = {'cache': uuid.uuid4().hex, 'vocabularies': _fingerprints(task)}
  with tf.io.gfile.GFile(completed_path(folder), 'w') as file:
    file.write(json.dumps(content, indent=2) + '\n')


def check_vocabularies(task: seqio.Task) -> None:
  """Refuses a cache of other ids than those of the task; one of seqio's does not tell what its ids mean.

  Raises:
    UserError: naming both.
  """
  cached = _read_completed(task.cache_dir).get('vocabularies', {})
  for name, fingerprint in _fingerprints(task).items():
    if cached.get(name, fingerprint) != fingerprint:
      raise errors.UserError(
        f'the cache in {task.cache_dir} has {name!r} in the vocabulary {cached[name]}, but {task.name!r} has now '
        f'{fingerprint}: choose that vocabulary, another --cache_dir, or cache it again with --overwrite'
      )


def _fingerprints(task):
  return {
    name: vocabulary.fingerprint(model_vocabulary.resolved(feature.vocabulary))
    for name, feature in task.output_features.items()
  }


def _read_completed(folder):
  with tf.io.gfile.GFile(completed_path(folder)) as file:
    return json.loads(file.read() or '{}')


def array_record_prefix(folder: str, split: str) -> str:
  """What the names of a split's array_record files begin with."""
  return os.path.join(folder, f'{split}.array_record')


def cannot_be_cached(mixture_or_task: seqio.Task | seqio.Mixture) -> str:
  """Says what a task without a place for a cache lacks."""
  return (
    f'{mixture_or_task.name!r} has no seqio.CacheDatasetPlaceholder(): put one among its preprocessors, after '
    'tokenization and before what is random or depends on the lengths'
  )


def describe(mixture_or_task: seqio.Task | seqio.Mixture, split: str) -> list[str]:
  """Which caches are read, and how: what must be the same for a position in them to mean the same."""
  descriptions = []
  for task in sorted(seqio.get_subtasks(mixture_or_task), key=lambda task: task.name):
    if task.cache_dir and split in task.splits:
      form = 'array_record' if _array_record_files(task, split) else 'tfrecord'
      name = _read_completed(task.cache_dir).get('cache', '')
      descriptions.append(f'{task.name} {form} {name}'.strip())
  return descriptions


def reading_caches(
  mixture_or_task: seqio.Task | seqio.Mixture, split: str, sequence_length: dict[str, int]
) -> seqio.Task | seqio.Mixture:
  """A task or mixture that reads the files of its caches here, and not in seqio.

  They are the array_record files, where there are any, else TFRecords. Caches in a bucket, and those of ragged
  features, remain for seqio to read.

  Args:
    mixture_or_task: cached or not.
    split: the split to be read.
    sequence_length: lengths of the features, as for `get_dataset`.

  Returns:
    The same, except that the tasks which have these files begin with them and no longer support caching.
  """
  if isinstance(mixture_or_task, seqio.Task):
    if split not in mixture_or_task.splits or not _is_readable(mixture_or_task, split):
      return mixture_or_task
    if _array_record_files(mixture_or_task, split):
      return _reading_array_records(mixture_or_task, split, sequence_length)
    return _reading_tfrecords(mixture_or_task, split)
  parts = mixture_or_task._task_map
  new = {name: reading_caches(parts[name], split, sequence_length) for name in parts}
  if new == parts:
    return mixture_or_task
  return seqio.Mixture(
    mixture_or_task.name,
    # A rate may ask a task for the number of its examples, which those cached need not be.
    [
      (new[name], rate(parts[name]) if callable(rate) else rate)
      for name, rate in mixture_or_task.rate_per_task_name.items()
    ],
    sample_fn=mixture_or_task._sample_fn,
  )


class ArrayRecordDataSource(seqio.DataSource):
  """The cached examples of one split, all of them shuffled anew in every epoch."""

  def __init__(self, folder: str, split: str):
    """Opens the files.

    Args:
      folder: of the cached task.
      split: the split.

    Raises:
      UserError: if examples are missing.
    """
    from array_record.python import array_record_data_source

    with tf.io.gfile.GFile(seqio.get_cached_info_path(folder, split)) as file:
      self._features = json.load(file)['features']
    with tf.io.gfile.GFile(seqio.get_cached_stats_path(folder, split)) as file:
      expected = json.load(file)['examples']
    self._files = sorted(tf.io.gfile.glob(array_record_prefix(folder, split) + '-*'))
    try:
      self._records = array_record_data_source.ArrayRecordDataSource(self._files)
    except RuntimeError:
      self._first_records()  # Tells which file it is.
      raise
    if len(self._records) != expected:
      raise errors.UserError(
        f'{array_record_prefix(folder, split)}-* hold {len(self._records)} examples, but {expected} were cached: '
        'copy the cache anew, or make it with `t5x-lite tasks cache --overwrite`'
      )
    super().__init__(
      splits=[split], num_input_examples={split: expected}, performs_internal_shuffling=True
    )

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> list[str]:
    return [split]

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused_kwargs,
  ) -> tf.data.Dataset:
    num_rows = self.num_input_examples(split)
    host, hosts = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)

    # Nothing here asks for more than is wanted of it, as batch() would, or a parallel map(): at the end of an epoch
    # that would end the iterators above while there are rows to come, and a position saved then would lack the
    # state of the random numbers.
    def numbers(epoch_seed):
      def permuted(first):
        rows = tf.range(first, tf.minimum(first + _RECORDS_AT_ONCE * hosts, num_rows), hosts)
        if shuffle:
          # Computed number by number: unlike a shuffle buffer it costs a saved iterator no space.
          rows = tf.random.experimental.index_shuffle(rows, epoch_seed, num_rows - 1)
        return rows

      return tf.data.Dataset.range(host, num_rows, _RECORDS_AT_ONCE * hosts).map(permuted)

    def examples(numbers):
      records = tf.ensure_shape(tf.numpy_function(self._read, [numbers], tf.string), [None])
      return tf.data.Dataset.from_tensor_slices(records).map(_parse(self._features))

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return seeds.batch(2, drop_remainder=True).take(1).flat_map(numbers).flat_map(examples)

  def _read(self, numbers):
    try:
      records = self._records.__getitems__(numbers.tolist())
    except RuntimeError:
      records = [record for number in numbers.tolist() for record in self._read_one(number)]
    # As objects, since an array of bytes would lose trailing zeros.
    return np.array(records, dtype=object)

  def _read_one(self, number):
    """A record, or none if it is damaged and left out."""
    try:
      return self._records.__getitems__([number])
    except RuntimeError as error:
      *_, place = (
        f'{file}, record {number - first}'
        for file, first in self._first_records().items()
        if first <= number
      )
      sources.leave_out_in_graph(place, str(error).partition('\n')[0])
      return []

  def _first_records(self):
    """The number that the first record of each file has among all of them."""
    from array_record.python import array_record_data_source

    first, numbers = 0, {}
    for file in self._files:
      numbers[file] = first
      try:
        first += len(array_record_data_source.ArrayRecordDataSource([file]))
      except RuntimeError as error:
        raise errors.UserError(
          f'{file} is damaged or cut short ({error}): copy the cache anew, or make it with '
          '`t5x-lite tasks cache --overwrite`'
        ) from error
    return numbers


def _parse(features):
  """What makes an example of a record, in TensorFlow's graph."""

  def parse(record):
    example = tf.io.parse_single_example(
      record, {name: _stored(**feature) for name, feature in features.items()}
    )
    return {name: tf.cast(v, features[name]['dtype']) for name, v in example.items()}

  return parse


def _stored(shape, dtype):
  """How a tf.Example holds a feature: integers as int64, a first dimension of any length."""
  dtype = tf.as_dtype(dtype)
  if dtype.is_integer or dtype.is_bool:
    dtype = tf.int64
  if shape and shape[0] is None:
    return tf.io.FixedLenSequenceFeature(shape[1:], dtype, allow_missing=True)
  return tf.io.FixedLenFeature(shape, dtype)


def _reading_array_records(task, split, sequence_length):
  source = ArrayRecordDataSource(task.cache_dir, split)
  task = task.replace(source=source, preprocessors=_after_cache(task))
  # Rows of which each is one example need no second shuffling, whose buffer would be saved with every position.
  # Other rows may be cut from one example, and be neighbours.
  number = source.num_input_examples(split)
  examples = source.get_dataset(split).apply(tf.data.experimental.assert_cardinality(number))
  if task.preprocess_postcache(examples, sequence_length).cardinality() == number:
    task = task.replace(shuffle_buffer_size=None)
  return task


def _reading_tfrecords(task, split):
  source = tfrecords.TFRecordDataSource(
    f'{seqio.get_cached_tfrecord_prefix(task.cache_dir, split)}-*-of-*[0-9]',
    split,
    _parse(_info(task, split)['features']),
    task._cache_dataset_placerholder.file_shuffle_buffer_size,
  )
  return task.replace(source=source, preprocessors=_after_cache(task))


def _after_cache(task):
  """The preprocessors of a task that a cache does not have behind it."""
  is_placeholder = [isinstance(p, seqio.CacheDatasetPlaceholder) for p in task.preprocessors]
  return task.preprocessors[is_placeholder.index(True) + 1 :]


def _is_readable(task, split):
  """Whether a task has a cache on a disk, without ragged features, that tells their dtypes."""
  if not task.cache_dir or '://' in task.cache_dir:
    return False
  info = _info(task, split)
  is_ragged = any(None in feature['shape'][1:] for feature in info['features'].values())
  return not is_ragged and 'seqio_version' in info


def _info(task, split):
  with tf.io.gfile.GFile(seqio.get_cached_info_path(task.cache_dir, split)) as file:
    return json.load(file)


def _array_record_files(task, split):
  """The files of a split that can be read by number: none of them without the package."""
  if not _is_readable(task, split) or not _can_read_array_records():
    return []
  return tf.io.gfile.glob(array_record_prefix(task.cache_dir, split) + '-*')


@functools.cache
def _can_read_array_records():
  try:
    import array_record.python.array_record_data_source  # noqa: F401
  except ImportError:
    return False
  return True
