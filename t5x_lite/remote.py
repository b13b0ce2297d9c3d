"""Files and folders that are in no file system of this machine: gs://bucket/run, s3://bucket/file.

Checkpoints are written to a bucket, and read from it, as they are. All else of a run is small: it is
written to a folder of this machine, the run's `Mirror`, and copied to the bucket from there.
"""

import atexit
import importlib.util
import logging
import os
import pathlib
import shutil
import tempfile

from etils import epath

from t5x_lite import errors

# The scheme of a path, and the package that opens it.
_PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}
# What a run appends to or reads again, so that a mirror begins with it.
_PULLED = ('metrics', 'vocabulary')


def is_remote(path) -> bool:
  """Whether a path begins with a scheme, as gs://bucket/run does."""
  return '://' in os.fspath(path)


def path(name) -> epath.Path:
  """Returns an absolute path, of this machine or of a bucket.

  Args:
    name: 'runs/mine', '~/mine', 'gs://bucket/run' or 's3://bucket/run'.

  Raises:
    UserError: nothing here opens such paths.
  """
  if not is_remote(name):
    return epath.Path(name).expanduser().resolve()
  scheme, _, rest = os.fspath(name).partition('://')
  if scheme not in _PACKAGES:
    raise errors.UserError(
      f'{name}: paths may begin with gs:// or s3://, or be of a file system; mount {scheme}:// as one'
    )
  if not rest.strip('/'):
    raise errors.UserError(f'{name} names no bucket: give {scheme}://BUCKET/FOLDER')
  package = _PACKAGES[scheme]
  if importlib.util.find_spec(package) is None:
    raise errors.UserError(f"{name} needs {package}: pip install 't5x_lite[{scheme}]'")
  import fsspec

  # Listings are not to be remembered: TensorStore writes what fsspec does not know of.
  for protocol in ('gcs', 's3'):
    fsspec.config.conf.setdefault(protocol, {})['use_listings_cache'] = False
  return epath.Path(name)


def run_path(name) -> epath.Path:
  """Returns the path of a run, or of its checkpoints.

  Raises:
    UserError: Orbax keeps no checkpoints there, or nothing here opens such paths.
  """
  place = path(name)
  if is_remote(place) and not str(place).startswith('gs://'):
    raise errors.UserError(
      f'{name}: Orbax keeps checkpoints in gs:// and in file systems: give such a folder, or mount '
      'the bucket as one'
    )
  return place


def local(name) -> pathlib.Path:
  """Returns where a file or folder is on this machine; of a bucket it is a copy, made once.

  Args:
    name: as in `path`. What is not there is not there in the copy either.
  """
  place = path(name)
  if not is_remote(place):
    return pathlib.Path(place)
  if str(place) not in _copies:
    target = _new_folder() / place.name
    _copy(place, target)
    _copies[str(place)] = target
  return _copies[str(place)]


_copies: dict[str, pathlib.Path] = {}


def _copy(source, target, *, recursive: bool = True):
  """Copies a file, or what is in a folder, to a path of any kind; what is not there makes nothing."""
  source, target = epath.Path(source), epath.Path(target)
  if source.is_dir():
    for child in source.iterdir():
      if recursive or not child.is_dir():
        _copy(child, target / child.name)
  elif source.exists():
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open('rb') as content, target.open('wb') as file:
      shutil.copyfileobj(content, file, 2**20)


class Mirror:
  """A run's folder as far as it is on this machine.

  Attributes:
    location: the run's folder.
    folder: where its files are written; of a run on this machine the run's folder itself, and else a
      folder that ends with the process.
  """

  def __init__(self, location: epath.Path):
    """Begins with the metrics and the vocabulary that are there."""
    self.location = location
    if not is_remote(location):
      self.folder = pathlib.Path(location)
      return
    self.folder = _new_folder()
    _copy(location, self.folder, recursive=False)
    for name in _PULLED:
      _copy(location / name, self.folder / name)
    self._pushed = self._stamps()

  def push(self):
    """Copies what has changed to the bucket; what does not get there is told, and tried again."""
    if not is_remote(self.location):
      return
    for file, stamp in self._stamps().items():
      if self._pushed.get(file) == stamp:
        continue
      try:
        _copy(self.folder / file, self.location / file)
        self._pushed[file] = stamp
      except Exception as error:  # Each service has its own.
        logging.warning('could not write %s: %s', self.location / file, error)

  def _stamps(self):
    stats = {file: file.stat() for file in self.folder.rglob('*') if file.is_file()}
    return {
      file.relative_to(self.folder): (stat.st_size, stat.st_mtime_ns)
      for file, stat in stats.items()
    }


def _new_folder() -> pathlib.Path:
  """Returns a new folder that ends with the process."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='t5x_lite-'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder
