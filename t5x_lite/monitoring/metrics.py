"""Metrics as JSON lines, for programs, and as TensorBoard events.

MODEL_DIR/metrics/train.jsonl has one object a line:

  {"step": 120, "time": 1764000000.123, "loss": 2.345, "mfu": null}

`time` is in seconds since 1970. JSON has no NaN or infinity: these are the strings "NaN",
"Infinity" and "-Infinity", which `float` understands; `read` gives numbers back. null is a value
not known.
"""

import contextlib
import json
import math
import os
import pathlib
import time
import typing
from collections.abc import Callable, Mapping
from typing import Any

if typing.TYPE_CHECKING:
  from t5x_lite.monitoring import tensorboard_events

_RESERVED = ('step', 'time')
_SECONDS_BETWEEN_WARNINGS = 600


class MetricWriter:
  """Appends metrics to MODEL_DIR/metrics/SPLIT.jsonl and MODEL_DIR/tensorboard/SPLIT/.

  A line is written by one call of the operating system, so a line is there as soon as `write`
  returns, and only the last one of a file can be half a line, after a crash of the machine. Lines that
  cannot be written, to a full disk, wait for one that can. A file that somebody has deleted with its
  folder is written again, from its first line.
  """

  def __init__(
    self,
    model_dir,
    *,
    resume_step: int | None = None,
    active: bool = True,
    tensorboard: bool = True,
    say: Callable[[str], None] | None = None,
  ):
    """Opens the files of a run.

    Args:
      model_dir: the run's folder.
      resume_step: the step a training run starts from. Lines of later steps, which a killed run
        wrote after its last checkpoint, are dropped: the steps will be done again. None, for
        evaluation and inference, leaves everything as it is.
      active: False makes a writer that writes nothing, for all hosts but the first.
      tensorboard: whether to write TensorBoard events too.
      say: takes a line on what cannot be written, every ten minutes at most; None raises it.
    """
    self._active = active
    self._tensorboard = tensorboard
    self._resume_step = resume_step
    self._model_dir = pathlib.Path(model_dir)
    self._folder = self._model_dir / 'metrics'
    self._say = say
    self._files: dict[str, _Lines] = {}
    self._events: dict[str, tensorboard_events.EventFile] = {}
    self._told_at = -math.inf
    if active:
      self._folder.mkdir(parents=True, exist_ok=True)
      if resume_step is not None:
        for path in self._folder.glob('*.jsonl'):
          if path.stem == 'train':
            cut_later_steps(path, resume_step)
          else:
            drop_later_steps(path, resume_step)

  def write(self, split: str, step: int, metrics: Mapping[str, Any]):
    """Writes the metrics of one step.

    Args:
      split: 'train', 'eval' or 'infer'.
      step: the number of steps done.
      metrics: numbers (of Python, numpy or JAX), None or strings, by name.
    """
    if not self._active:
      return
    for name in _RESERVED:
      if name in metrics:
        raise ValueError(f'a metric cannot be called {name!r}: every line has one')
    values = {name: _plain(value) for name, value in metrics.items()}
    line = {'step': int(step), 'time': round(time.time(), 3)}
    line |= {name: _json_safe(value) for name, value in values.items()}
    with self._unless_full():
      self._lines(split).write((json.dumps(line, allow_nan=False) + '\n').encode())
      if self._tensorboard:
        finite = {
          name: x for name, x in values.items() if isinstance(x, float) and math.isfinite(x)
        }
        self._event_file(split).write(step, finite)

  def flush(self):
    """Hands the TensorBoard events to the operating system; the lines are there already."""
    for events in self._events.values():
      with self._unless_full():
        events.flush()

  def close(self):
    """Closes the files; a later `write` opens them again."""
    for file in (*self._files.values(), *self._events.values()):
      with self._unless_full():
        file.close()
    self._files.clear()
    self._events.clear()

  @contextlib.contextmanager
  def _unless_full(self):
    """Tells of what cannot be written, not more often than every ten minutes."""
    try:
      yield
    except OSError as error:
      if self._say is None:
        raise
      if time.monotonic() - self._told_at >= _SECONDS_BETWEEN_WARNINGS:
        self._told_at = time.monotonic()
        self._say(
          f'metrics cannot be written to {self._folder} ({error}): see to its disk space; the run goes '
          'on, and writes them when it can'
        )

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def _lines(self, split):
    if split not in self._files:
      self._files[split] = _Lines(self._folder / f'{split}.jsonl')
    return self._files[split]

  def _event_file(self, split):
    if split not in self._events:
      from t5x_lite.monitoring import tensorboard_events  # Late: it takes a while to import.

      folder = self._model_dir / 'tensorboard' / split
      purge_step = None if self._resume_step is None else self._resume_step + 1
      self._events[split] = tensorboard_events.EventFile(folder, purge_step)
    return self._events[split]


class _Lines:
  """A file to which whole lines are appended."""

  def __init__(self, path):
    self._path = path
    self._file = None
    self._waiting = b''  # What could not be written yet.

  def write(self, line: bytes):
    self._waiting += line
    if self._file is not None and not self._is_there():
      self._waiting = self._written() + self._waiting
      self._file.close()
      self._file = None
    if self._file is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      # Unbuffered: one call of the operating system a line. Two programs may append at once.
      self._file = open(self._path, 'a+b', buffering=0)
      if not _ends_with_newline(self._path):
        self._waiting = b'\n' + self._waiting
    while self._waiting:
      self._waiting = self._waiting[self._file.write(self._waiting) :]

  def close(self):
    if self._waiting:
      self.write(b'')
    if self._file is not None:
      self._file.close()

  def _is_there(self):
    try:
      return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
    except FileNotFoundError:
      return False

  def _written(self):
    """All of a file that has no name any more, or another one."""
    self._file.seek(0)
    return self._file.read()


def read(path) -> list[dict[str, Any]]:
  """Reads a file of metrics: without what is no whole line, NaN and infinity as floats again."""
  lines = []
  for line in pathlib.Path(path).read_bytes().splitlines():
    if (parsed := _parse(line)) is not None:
      lines.append({name: _from_json(value) for name, value in parsed.items()})
  return lines


def drop_later_steps(path, last_step: int):
  """Drops the lines of steps after `last_step`, and what is no whole line.

  The file is replaced in one go: killed at any moment, either the old or the new one is there.
  """
  path = pathlib.Path(path)
  old = path.read_bytes()
  kept = b''.join(
    line
    for line in old.splitlines(keepends=True)
    if line.endswith(b'\n') and (parsed := _parse(line)) and parsed['step'] <= last_step
  )
  if kept == old:
    return
  new_path = path.with_name(f'.{path.name}.{os.getpid()}')
  with open(new_path, 'wb') as file:
    file.write(kept)
    file.flush()
    os.fsync(file.fileno())
  os.replace(new_path, path)


def cut_later_steps(path, last_step: int):
  """Does the same for a file whose steps ascend, however long it is, by cutting off its end."""
  size = os.path.getsize(path)
  for begin, line in _lines_backwards(path):
    parsed = _parse(line) if line.endswith(b'\n') else None
    if parsed and parsed['step'] <= last_step:
      size = begin + len(line)
      break
    size = begin
  os.truncate(path, size)


def last_step(path) -> int | None:
  """The step of the last whole line of a file; None if there is none, or no file."""
  try:
    parsed = (_parse(line) for _, line in _lines_backwards(path))
    return next((line['step'] for line in parsed if line), None)
  except OSError:
    return None


def _lines_backwards(path, block_bytes=65536):
  """Yields the lines of a file from the last to the first, and where each begins."""
  with open(path, 'rb') as file:
    begin = file.seek(0, os.SEEK_END)
    rest = b''
    while begin:
      block = min(block_bytes, begin)
      begin -= block
      file.seek(begin)
      first, *lines = (file.read(block) + rest).splitlines(keepends=True)
      place = begin + len(first) + sum(map(len, lines))
      for line in reversed(lines):
        place -= len(line)
        yield place, line
      rest = first
    if rest:
      yield 0, rest


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    parsed = json.loads(line)
  except ValueError:
    return None
  return parsed if isinstance(parsed, dict) and isinstance(parsed.get('step'), int) else None


def _plain(value):
  """A scalar of any library as float; None and strings as they are."""
  return value if value is None or isinstance(value, str) else float(value)


def _json_safe(value):
  if not isinstance(value, float) or math.isfinite(value):
    return value
  return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'


def _from_json(value):
  return float(value) if value in ('NaN', 'Infinity', '-Infinity') else value


def _ends_with_newline(path) -> bool:
  with open(path, 'rb') as file:
    if not file.seek(0, os.SEEK_END):
      return True
    file.seek(-1, os.SEEK_END)
    return file.read() == b'\n'
