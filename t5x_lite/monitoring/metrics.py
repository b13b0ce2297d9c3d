"""Metrics as JSON lines, for programs, and as TensorBoard events.

MODEL_DIR/metrics/train.jsonl has one object a line:

  {"step": 120, "time": 1764000000.123, "loss": 2.345, "mfu": null}

`time` is in seconds since 1970. JSON has no NaN or infinity: these are the strings "NaN",
"Infinity" and "-Infinity", which `float` understands; `read` gives numbers back. null is a value
not known.
"""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

_RESERVED = ('step', 'time')


class MetricWriter:
  """Appends metrics to MODEL_DIR/metrics/SPLIT.jsonl and MODEL_DIR/tensorboard/SPLIT/.

  A line is written by one call of the operating system, so a line is there as soon as `write`
  returns, and only the last one of a file can be half a line, after a crash of the machine.
  """

  def __init__(
    self,
    model_dir,
    *,
    resume_step: int | None = None,
    active: bool = True,
    tensorboard: bool = True,
  ):
    """Opens the files of a run.

    Args:
      model_dir: the run's folder.
      resume_step: the step a training run starts from. Lines of later steps, which a killed run
        wrote after its last checkpoint, are dropped: the steps will be done again. None, for
        evaluation and inference, leaves everything as it is.
      active: False makes a writer that writes nothing, for all hosts but the first.
      tensorboard: whether to write TensorBoard events too.
    """
    self._active = active
    self._tensorboard = tensorboard
    self._resume_step = resume_step
    self._model_dir = pathlib.Path(model_dir)
    self._folder = self._model_dir / 'metrics'
    self._files: dict[str, Any] = {}
    self._event_writers: dict[str, Any] = {}
    if active:
      self._folder.mkdir(parents=True, exist_ok=True)
      if resume_step is not None:
        for path in self._folder.glob('*.jsonl'):
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
    self._file(split).write((json.dumps(line, allow_nan=False) + '\n').encode())
    if self._tensorboard:
      events = self._events(split)
      for name, value in values.items():
        if isinstance(value, float) and math.isfinite(value):  # tensorboardX warns of others.
          events.add_scalar(name, value, step)

  def flush(self):
    """Hands the TensorBoard events to the operating system; the lines are there already."""
    for events in self._event_writers.values():
      events.flush()

  def close(self):
    """Closes the files; a later `write` opens them again."""
    for file in (*self._files.values(), *self._event_writers.values()):
      file.close()
    self._files.clear()
    self._event_writers.clear()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def _file(self, split):
    if split not in self._files:
      path = self._folder / f'{split}.jsonl'
      # Unbuffered: one call of the operating system a line. Two programs may append at once.
      self._files[split] = open(path, 'ab', buffering=0)
      if not _ends_with_newline(path):
        self._files[split].write(b'\n')
    return self._files[split]

  def _events(self, split):
    if split not in self._event_writers:
      import tensorboardX  # Late: it takes a while, and not every command writes metrics.

      purge_step = None if self._resume_step is None else self._resume_step + 1
      self._event_writers[split] = tensorboardX.SummaryWriter(
        str(self._model_dir / 'tensorboard' / split), purge_step=purge_step
      )
    return self._event_writers[split]


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
