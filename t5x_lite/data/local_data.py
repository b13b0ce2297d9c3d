"""Data sets that are in TensorFlow Datasets, and that people also hold as files.

A task of one names both:

    LocalOrTfdsDataSource(
        'glue/cola:2.0.0', ('train', 'validation', 'test'),
        open_files=functools.partial(records.RecordsDataSource, layout=...))

It reads TFDS unless `choices.local_data` (`--local_data`) has files of the set. An entry there is

- a folder that holds folders of data sets, by TFDS's names: FOLDER/glue/cola, FOLDER/squad. Case, dashes and
  underscores do not count, so that glue_data/CoLA and SuperGLUE/BoolQ are found, too;
- DATASET=FOLDER, such as glue/cola=/data/CoLA; or
- DATASET/SPLIT=FILE, or a glob: squad/validation=/data/dev-v1.1.json.

The files of a split are those with its name between the dots, dashes and underscores of theirs: train.tsv,
sts-train.csv, c4-train.00000-of-01024.json.gz. `dev` and `val` stand for validation.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_lite import choices, errors
from t5x_lite.data import sources

_SPLIT_WORDS = {'validation': ('validation', 'valid', 'val', 'dev')}
_SUFFIXES = ('.tsv', '.csv', '.txt', '.json', '.jsonl')
# All names of all data sets, in lower case.
_known_names: set[str] = set()


class LocalOrTfdsDataSource(seqio.DataSource):
  """Files, if there are some of the data set; otherwise TFDS."""

  def __init__(
    self,
    tfds_name: str,
    splits: Sequence[str] | Mapping[str, str],
    open_files: Callable[[Mapping[str, Sequence[str]]], seqio.DataSource],
    *,
    tfds_splits: Mapping[str, str] | None = None,
    other_names: Sequence[str] = (),
    suffixes: Sequence[str] = _SUFFIXES,
  ):
    """Names the data set.

    Args:
      tfds_name: its name in TFDS, with the version.
      splits: the splits that tasks may read; or split -> the data set's own name of it.
      open_files: makes a data source of {split: files}, which has the examples that TFDS has.
      tfds_splits: split -> its name in TFDS, where that is another, such as a part: 'train[:90%]'.
      other_names: of the folder of its files, such as 'squad' of squad/v1.1.
      suffixes: of the files, without .gz.
    """
    self.tfds_name = tfds_name
    self.names = (*other_names, tfds_name.partition(':')[0])
    _known_names.update(name.lower() for name in self.names)
    self._own_splits = dict(splits) if isinstance(splits, Mapping) else {s: s for s in splits}
    self._tfds_splits = dict(tfds_splits or self._own_splits)
    self._open_files = open_files
    self._suffixes = suffixes
    self._opened = {}
    # Files that are not held in memory come in their own order, so that tasks need a shuffle buffer.
    super().__init__(splits=self._own_splits)

  @property
  def splits(self):
    return self._source().splits

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return self._source().supports_arbitrary_sharding

  def list_shards(self, split: str) -> Sequence[str]:
    return self._readable(lambda source: source.list_shards(split))

  def num_input_examples(self, split: str) -> int | None:
    return self._readable(lambda source: source.num_input_examples(split))

  def get_dataset(self, *args, **kwargs) -> tf.data.Dataset:
    return self._readable(lambda source: source.get_dataset(*args, **kwargs))

  def files(self) -> dict[str, list[str]]:
    """Returns the local files of each split; {} if there are none, so that TFDS is read."""
    return find_files(self.names, self._own_splits, self._suffixes)

  def _source(self):
    """What is read now: it depends on the choices."""
    entries = tuple(choices.current().local_data)
    if entries not in self._opened:
      files = self.files()
      self._opened[entries] = (
        self._open_files(files)
        if files
        else seqio.TfdsDataSource(self.tfds_name, splits=self._tfds_splits)
      )
    return self._opened[entries]

  def _readable(self, read):
    source = self._source()
    if not isinstance(source, seqio.TfdsDataSource):
      return read(source)
    # Asked first, as reading would begin to fetch the data, and some sets take days.
    with sources.quiet():
      is_prepared = source.tfds_dataset.builder.is_prepared()
    if is_prepared:
      return read(source)
    entries = ' or '.join(choices.current().local_data)
    where = f'{entries} has no folder of it' if entries else ''
    raise errors.UserError(
      f'{self.tfds_name} is not in {tfds.core.constants.DATA_DIR}'
      f'{", and " + where if where else ""}: prepare it with `tfds build {self.tfds_name}`, set '
      'TFDS_DATA_DIR to the folder that has it, or give its files with '
      f'--local_data={self.names[0]}=FOLDER'
    )


def find_files(
  names: Sequence[str], splits: Mapping[str, str], suffixes: Sequence[str] = _SUFFIXES
) -> dict[str, list[str]]:
  """Finds the files of a data set among `choices.local_data`.

  Args:
    names: of the data set, such as 'glue/cola'.
    splits: split -> the data set's own name of it.
    suffixes: of the files.

  Returns:
    Split -> paths, of the splits that have files.

  Raises:
    UserError: an entry names nothing, or its files are not told apart.
  """
  found = {}
  for entry in choices.current().local_data:
    key, equals, path = entry.partition('=')
    if not equals:
      folders = [folder for name in names if (folder := _folder_of(name, entry))]
      if folders:
        found = _files_in(folders[0], names[0], splits, suffixes) | found
      continue
    name, split = _split_key(key, entry)
    if name not in map(str.lower, names):
      continue
    if not split:
      _check_folder(path, entry)
      found |= _files_in(path, names[0], splits, suffixes)
    else:
      wanted = [each for each, own in splits.items() if own == split]
      found |= dict.fromkeys(wanted, _matches(path, entry))
  return found


def _split_key(key, entry):
  """Returns the data set, by one of the known names, and the split or '' that an entry is for."""
  key = key.strip('/').lower()
  if key in _known_names:
    return key, ''
  name, _, split = key.rpartition('/')
  if name not in _known_names:
    near = errors.did_you_mean(key, _known_names) or errors.did_you_mean(name, _known_names)
    raise errors.UserError(f'--local_data={entry}: no task reads a data set {key!r}{near}')
  return name, split


def _check_folder(path, entry):
  if not tf.io.gfile.isdir(path):
    raise errors.UserError(
      f'--local_data={entry}: {path} is no folder; a file is given as DATASET/SPLIT=FILE'
    )


def _matches(path, entry):
  files = sorted(tf.io.gfile.glob(path))
  if not files:
    raise errors.UserError(f'--local_data={entry}: no file matches {path}')
  return files


def _plain(name):
  return re.sub('[^a-z0-9]', '', name.lower()).removesuffix('data')


def _folder_of(name, root):
  """The folder of a data set in a folder of data sets, or None."""
  _check_folder(root, root)
  folder, parts = root, name.split('/')
  if _plain(os.path.basename(root.rstrip('/'))) == _plain(parts[0]):
    parts = parts[1:]
  for part in parts:
    matching = [each for each in tf.io.gfile.listdir(folder) if _plain(each) == _plain(part)]
    if not matching:
      return None
    folder = os.path.join(folder, sorted(matching)[0].rstrip('/'))
    if not tf.io.gfile.isdir(folder):
      return None
  return folder


def _files_in(folder, name, splits, suffixes):
  """Paths of the files in a folder by the split that their names say."""
  files = {
    file: set(re.split('[^a-z0-9]+', file.lower()))
    for file in sorted(tf.io.gfile.listdir(folder))
    if file.removesuffix('.gz').endswith(tuple(suffixes))
  }
  found = {}
  for split, own_name in splits.items():
    first, *others = own_name.split('_')
    words = _SPLIT_WORDS.get(first, (first,))
    matching = [
      file for file, parts in files.items() if parts & set(words) and parts >= set(others)
    ]
    if not matching and len(splits) == len(files) == 1:
      matching = list(files)  # A set of one split, such as GLUE's diagnostic.tsv.
    # All shards of one file are of one kind. Parallel texts have other suffixes.
    tables = [file.removesuffix('.gz') for file in matching]
    kinds = {re.sub('[0-9]{3,}', '', file) for file in tables if file.endswith(_SUFFIXES)}
    if len(kinds) > 1:
      raise errors.UserError(
        f'{folder} has several files for split {own_name!r} of {name}: {", ".join(matching)}; name '
        f'one with --local_data={name}/{own_name}=FILE'
      )
    if matching:
      found[split] = [os.path.join(folder, file) for file in matching]
  if not found:
    raise errors.UserError(
      f'{folder} has no file for a split of {name} ({", ".join(splits.values())}): names such as '
      f'train{suffixes[0]} are looked for; name one with --local_data={name}/SPLIT=FILE'
    )
  return found
