"""The files people have, as seqio data sources: JSON lines, plain text, CSV and TSV, gzipped or not.

    seqio.TaskRegistry.add(
        'my_reviews',
        source=sources.JsonLinesDataSource(
            {'train': 'reviews/train-*.jsonl.gz', 'validation': 'reviews/dev.jsonl'},
            fields={'text': str, 'stars': int}),
        ...)

For TensorFlow Datasets there is `seqio.TfdsDataSource`. What is wrong with a file is told with its name and
line; since some lines are read inside tf.data, iterate within `readable_errors()` to get that as a UserError.
"""

import contextlib
import functools
import glob
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

from t5x_lite import errors
from t5x_lite.data import damaged_records, tables

# One path or glob, or several.
FilePatterns = str | Sequence[str]
# Columns of a table and their types: str, int, float or bool. A sequence of names makes all of them str.
Fields = Mapping[str, type] | Sequence[str]

_DTYPES = {str: tf.string, int: tf.int64, float: tf.float32, bool: tf.bool}


class TextLinesDataSource(seqio.FileDataSource):
  """Plain text, a line an example: `{'text': ...}`. Lines of only white space are left out. Streams."""

  def __init__(self, split_to_filepattern: Mapping[str, FilePatterns]):
    parse = functools.partial(
      _parse_line, fields={'text': str}, convert=lambda line: {'text': line}
    )
    super().__init__(
      read_file_fn=functools.partial(_read_lines, fields={'text': str}, parse=parse),
      split_to_filepattern=dict(split_to_filepattern),
    )

  def list_shards(self, split: str) -> list[str]:
    return matching_files(self._split_to_filepattern[split])


class JsonLinesDataSource(seqio.FileDataSource):
  """JSON lines, an object a line; empty lines are left out. Streams.

  Shuffling mixes the order of the files and what lies within the task's `shuffle_buffer_size` examples: shuffle
  a file that is sorted (by label, say) once on disk, or give the task a larger buffer.
  """

  def __init__(self, split_to_filepattern: Mapping[str, FilePatterns], fields: Fields):
    """Names the files and what to take from each line.

    Args:
      split_to_filepattern: split name -> a path or glob, or several.
      fields: the object's fields to keep, and their types.
    """
    fields = _typed(fields)
    parse = functools.partial(_parse_line, fields=fields, convert=json.loads)
    super().__init__(
      read_file_fn=functools.partial(_read_lines, fields=fields, parse=parse),
      split_to_filepattern=dict(split_to_filepattern),
    )

  def list_shards(self, split: str) -> list[str]:
    return matching_files(self._split_to_filepattern[split])


class ParallelTextDataSource(seqio.FileDataSource):
  """Text files whose lines are translations of each other: `{'en': ..., 'de': ...}`. Streams."""

  def __init__(self, split_to_files: Mapping[str, Sequence[str]], languages: Sequence[str]):
    """Names the files.

    Args:
      split_to_files: split name -> paths, as many of each language, which the suffixes name: train.en.gz, train.de.gz.
      languages: such as ('en', 'de').

    Raises:
      UserError: a file has no counterpart.
    """
    self._shards = {
      split: _parallel_files(files, languages) for split, files in split_to_files.items()
    }
    super().__init__(
      read_file_fn=functools.partial(_read_parallel_lines, languages=languages),
      split_to_filepattern=dict(split_to_files),
    )

  def list_shards(self, split: str) -> list[str]:
    return self._shards[split]


class RowsDataSource(seqio.DataSource):
  """Rows held in memory. Shuffles all of them anew in every epoch, and shards over hosts row by row."""

  def __init__(self, read: Callable[[str], Mapping[str, Sequence]], splits: Iterable[str]):
    """Takes the function that reads the rows, which is called once a split and not before it is needed.

    Args:
      read: split name -> columns of equal length, by name: texts, numbers, or a tf.RaggedTensor of lists.
      splits: names of the splits.
    """
    self._columns = functools.cache(
      lambda split: {name: _tensor(column) for name, column in read(split).items()}
    )
    # So a task may say shuffle_buffer_size=None, and its saved position stays small.
    super().__init__(splits=splits, performs_internal_shuffling=True)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> list[str]:
    return [split]

  def num_input_examples(self, split: str) -> int:
    return next(iter(self._columns(split).values())).shape[0]

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused_kwargs,
  ) -> tf.data.Dataset:
    columns, num_rows = self._columns(split), self.num_input_examples(split)

    def rows(epoch_seed=None):
      numbers = tf.data.Dataset.range(num_rows)
      if shuffle:
        # A permutation computed row by row: unlike a shuffle buffer it costs a saved iterator no space.
        numbers = numbers.map(
          lambda row: tf.random.experimental.index_shuffle(row, epoch_seed, num_rows - 1)
        )
      if shard_info is not None:
        numbers = numbers.shard(shard_info.num_shards, shard_info.index)
      return numbers.map(
        lambda row: self._example(
          {name: tf.gather(column, row) for name, column in columns.items()}
        )
      )

    if not shuffle:
      return rows()
    # What reads ahead must not come between the seeds and the repetition of this: at the end of an epoch it would
    # end them while there are rows to come, and a position saved then would lack their state. TensorFlow makes a
    # map() read ahead, unless it is within a function.
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return seeds.batch(2, drop_remainder=True).take(1).flat_map(rows)

  def _example(self, row):
    """An example, of the values of a row by column."""
    return row


def _tensor(column):
  return column if isinstance(column, tf.RaggedTensor) else tf.constant(column)


class CsvDataSource(RowsDataSource):
  """Comma-separated values, read into memory; quoted values may hold line breaks."""

  def __init__(
    self,
    split_to_filepattern: Mapping[str, FilePatterns],
    fields: Fields,
    *,
    columns: Sequence[str] | None = None,
    delimiter: str = ',',
    quoted: bool = True,
  ):
    r"""Names the files and what to take from each row.

    Args:
      split_to_filepattern: split name -> a path or glob, or several.
      fields: the columns to keep, and their types.
      columns: names of the columns of files without a header line; by default the first line names them.
      delimiter: what separates values; '\t' makes TSV.
      quoted: whether values may stand in double quotes; False takes a quote for a character like others.
    """
    fields = _typed(fields)

    def read(split):
      files = matching_files(split_to_filepattern[split])
      rows = [
        row
        for file in files
        for row in tables.read(file, fields, columns=columns, delimiter=delimiter, quoted=quoted)
      ]
      if not rows:
        raise errors.UserError(f'no rows in {", ".join(files)}')
      return {
        name: np.array([row[i] for row in rows], dtype=object if kind is str else kind)
        for i, (name, kind) in enumerate(fields.items())
      }

    super().__init__(read, split_to_filepattern)


class TsvDataSource(CsvDataSource):
  """Tab-separated values; as CsvDataSource otherwise."""

  def __init__(
    self, split_to_filepattern: Mapping[str, FilePatterns], fields: Fields, **csv_options
  ):
    super().__init__(split_to_filepattern, fields, delimiter='\t', **csv_options)


@contextlib.contextmanager
def quiet():
  """Holds back the warnings of seqio and TFDS, where what they warn of is as we want it."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def without_autograph(
  make_dataset: Callable[..., tf.data.Dataset], *args, **kwargs
) -> tf.data.Dataset:
  """Returns `make_dataset(*args, **kwargs)`; AutoGraph rewrites what that maps only if it has to.

  To rewrite all functions of a task takes seconds, and hardly one has an `if`, a `for` or a `len` of a tensor.
  """
  try:
    return tf.autograph.experimental.do_not_convert(make_dataset)(*args, **kwargs)
  except (tf.errors.OperatorNotAllowedInGraphError, TypeError):
    return make_dataset(*args, **kwargs)


@contextlib.contextmanager
def readable_errors():
  """Turns what a data source said inside tf.data back into the UserError it was."""
  try:
    yield
    damaged_records.check()
  except tf.errors.OpError as error:
    if message := message_in(error):
      raise errors.UserError(message) from None
    if isinstance(error, tf.errors.DataLossError):
      raise errors.UserError(f'a data file is damaged or cut short: {error.message}') from None
    raise


def in_graph(message: str) -> str:
  """Marks what an error inside tf.data says, so that `readable_errors` finds it in what TensorFlow says of it."""
  return f'⟪{message}⟫'


def leave_out_in_graph(place: str, what) -> None:
  """`damaged_records.leave_out` inside tf.data."""
  try:
    damaged_records.leave_out(place, str(what))
  except errors.UserError as error:
    raise errors.UserError(in_graph(str(error))) from None


def message_in(error: Exception) -> str | None:
  """What a data source said, if that is what the exception passes on."""
  message = re.search(in_graph('(.*?)'), str(error), re.DOTALL)
  return message and message[1]


def matching_files(patterns: FilePatterns) -> list[str]:
  """Expands paths and globs; a pattern without a file is a UserError, and so is a .gz that is not gzip.

  Args:
    patterns: one path or glob, or several; remote ones (gs://...) as TensorFlow reads them.

  Returns:
    Paths, sorted within each pattern.
  """
  files = []
  for pattern in [patterns] if isinstance(patterns, str) else patterns:
    matches = (
      sorted(tf.io.gfile.glob(pattern))
      if glob.has_magic(pattern)
      else [pattern] * tf.io.gfile.exists(pattern)
    )
    if not matches:
      raise errors.UserError(f'no file matches {pattern!r}')
    files.extend(matches)
  for file in files:
    if file.endswith('.gz'):
      with tf.io.gfile.GFile(file, 'rb') as opened:
        if opened.read(2) != b'\x1f\x8b':
          raise errors.UserError(f'{file} is named .gz but is not gzip: rename or compress it')
  return files


def _typed(fields):
  fields = dict(fields) if isinstance(fields, Mapping) else dict.fromkeys(fields, str)
  for name, kind in fields.items():
    if kind not in _DTYPES:
      raise errors.UserError(f'field {name!r} has type {kind!r}: use str, int, float or bool')
  return fields


# --- Lines, parsed one by one inside tf.data ---


def _read_lines(file, *, fields, parse):
  """One file (a scalar string tensor) as a dataset of parsed lines."""
  compression = tf.where(tf.strings.regex_full_match(file, r'.*\.gz'), 'GZIP', '')
  lines = tf.data.TextLineDataset(file, compression_type=compression).enumerate(start=1)
  lines = lines.filter(lambda number, line: tf.strings.strip(line) != '')

  def parse_in_graph(number, line):
    dtypes = [tf.bool, *(_DTYPES[kind] for kind in fields.values())]
    is_whole, *values = tf.numpy_function(parse, [file, number, line], dtypes)
    values = {name: tf.ensure_shape(v, []) for name, v in zip(fields, values, strict=True)}
    return tf.ensure_shape(is_whole, []), values

  parsed = lines.map(parse_in_graph).filter(lambda is_whole, values: is_whole)
  return parsed.map(lambda is_whole, values: values)


def _parse_line(file, number, line, *, fields, convert):
  """Whether a line is left in, and its values of `fields`; for tf.numpy_function.

  Any mistake carries the place where it is.
  """
  try:
    try:
      text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
      example = convert(text)
    except UnicodeDecodeError as error:
      raise errors.UserError(f'not UTF-8 at byte {error.start + 1} of the line') from None
    except json.JSONDecodeError as error:
      raise errors.UserError(f'not JSON: {error.msg} at column {error.colno}') from None
    if not isinstance(example, dict):
      raise errors.UserError(f'a JSON object is needed, this is {errors.shortened(example)}')
    return [True, *(_json_value(example, name, kind) for name, kind in fields.items())]
  except errors.UserError as error:
    leave_out_in_graph(f'{file.decode()}, line {number}', error)
    nothing = {name: kind() for name, kind in fields.items()}
    return [False, *(_json_value(nothing, name, kind) for name, kind in fields.items())]


def _parallel_files(files, languages):
  """The files of each language in their order, those that belong together joined by a tab."""
  by_language = {
    language: sorted(f for f in files if f.removesuffix('.gz').endswith(f'.{language}'))
    for language in languages
  }
  counts = {language: len(files) for language, files in by_language.items()}
  if 0 in counts.values() or len(set(counts.values())) > 1:
    endings = ' and '.join(f'{count} for {language!r}' for language, count in counts.items())
    raise errors.UserError(
      f'parallel texts need as many files of each language, told by their endings: {endings} among '
      + ', '.join(files)
    )
  matching_files(files)
  return ['\t'.join(pair) for pair in zip(*by_language.values(), strict=True)]


_END_OF_FILE = b'\0'


def _read_parallel_lines(files, *, languages):
  """Files joined by tabs (a scalar string tensor) as a dataset of their lines by language."""
  paths = tf.strings.split(files, '\t')

  def lines(i):
    compression = tf.where(tf.strings.regex_full_match(paths[i], r'.*\.gz'), 'GZIP', '')
    text = tf.data.TextLineDataset(paths[i], compression_type=compression)
    return text.concatenate(tf.data.Dataset.from_tensors(_END_OF_FILE))

  def check(number, *lines):
    checked = tf.numpy_function(
      _parse_parallel, [files, number, *lines], [tf.string] * len(languages)
    )
    return {name: tf.ensure_shape(line, []) for name, line in zip(languages, checked, strict=True)}

  rows = tf.data.Dataset.zip(tuple(lines(i) for i in range(len(languages))))
  rows = rows.enumerate(start=1).map(lambda number, lines: check(number, *lines))
  return rows.filter(lambda example: example[languages[0]] != _END_OF_FILE)


def _parse_parallel(files, number, *lines):
  """The lines themselves, once they are known to be text, and of files of one length."""
  names = files.decode().split('\t')
  ended = [line == _END_OF_FILE for line in lines]
  if any(ended) and not all(ended):
    short = names[ended.index(True)]
    where = f'{short} has {number - 1} lines, but {names[ended.index(False)]} has more'
    raise errors.UserError(in_graph(where))
  for name, line in zip(names, lines, strict=True):
    try:
      line.decode()
    except UnicodeDecodeError as error:
      where = f'{name}, line {number}: not UTF-8 at byte {error.start + 1} of the line'
      raise errors.UserError(in_graph(where)) from None
  return [np.array(line, object) for line in lines]


def _json_value(example, name, kind):
  if name not in example:
    raise errors.UserError(f'no field {name!r}; the line has {", ".join(map(repr, example))}')
  value = example[name]
  right = type(value) is kind or (kind is float and type(value) is int)
  if not right or (kind is int and not tables.fits_int64(value)):
    raise errors.UserError(
      f'field {name!r} is {errors.shortened(value)}, but was declared as {kind.__name__}'
    )
  # As an object, since an array of bytes would lose trailing zeros.
  return np.array(value.encode() if kind is str else value, _DTYPES[kind].as_numpy_dtype)
