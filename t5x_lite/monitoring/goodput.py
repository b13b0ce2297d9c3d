"""Where the time of a run goes, over all its restarts.

MODEL_DIR/metrics/goodput.json holds the seconds of each part; they add up to the time from the
first start of the run to now:

  start_up    until the first step is started
  compile     of the train step
  data_wait   the devices were done and the next batch was not there
  step        training; its share is the goodput
  eval        evaluation, its compilation included
  checkpoint  copying the state, and waiting for a save that was still being written
  restart     from the last sign of life of a process to the first step that no process had done
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable

from t5x_lite.evaluation import files
from t5x_lite.monitoring import metrics, progress

PARTS = ('start_up', 'compile', 'data_wait', 'step', 'eval', 'checkpoint', 'restart')


@dataclasses.dataclass
class _Stretch:
  """A stretch of time; what it counts as may be said until it ends."""

  part: str


class Goodput:
  """A clock that always runs for one of `PARTS`."""

  def __init__(
    self,
    model_dir,
    first_step: int,
    *,
    started: float | None = None,
    active: bool = True,
    seconds_between_writes: float = 10,
    clock: Callable[[], float] = time.time,
  ):
    """Goes on with what earlier processes of the run have counted.

    Args:
      model_dir: the run's folder.
      first_step: the step that this process begins at.
      started: when the process began, on `clock`; now if None.
      active: False counts but reads and writes nothing, for all hosts but the first. What the metrics
        say of steps later than `first_step` must not have been dropped yet.
      seconds_between_writes: a killed process says nothing of the time since the last write, which
        is then taken for part of the restart.
      clock: seconds, the same for all processes.
    """
    last_step = metrics.last_step(pathlib.Path(model_dir) / 'metrics' / 'train.jsonl')
    self._path = pathlib.Path(model_dir) / 'metrics' / 'goodput.json'
    self._active = active
    self._seconds_between_writes = seconds_between_writes
    self._clock = clock
    self._since = self._written = clock() if started is None else started
    self._stretch = _Stretch('start_up')
    self._seconds = dict.fromkeys(PARTS, 0.0)
    self._restarts = self._repeated_steps = 0
    self._step = first_step  # The last that any process is known to have done.
    self._restarting = False
    if (earlier := self._read()) is not None:
      self._seconds |= earlier['seconds']
      self._restarts, self._repeated_steps = earlier['restarts'], earlier['repeated_steps']
      if not earlier['finished']:
        self._restarting = True
        self._restarts += 1
        self._step = max(first_step, last_step or 0)
        self._repeated_steps += self._step - first_step
        self._since = min(self._since, earlier['time'])

  @contextlib.contextmanager
  def during(self, part: str):
    """Counts the time inside for another part; yields an object whose `part` may yet be changed."""
    outside, stretch = self._stretch, _Stretch(part)
    self._enter(stretch)
    try:
      yield stretch
    finally:
      self._enter(outside)

  def begin_steps(self):
    """Says that the start-up is over."""
    self._enter(_Stretch('step'))

  def stepped(self, step: int):
    """Says that a step is done."""
    if step > self._step:
      self._enter(self._stretch)
      self._restarting, self._step = False, step
    if self._clock() - self._written >= self._seconds_between_writes:
      self.write()

  def write(self, finished: bool = False):
    """Writes the file; one that cannot be written now may be the next time.

    Args:
      finished: whether the run is done, so that the time until it is continued is not its own.
    """
    self._enter(self._stretch)
    self._written = self._since
    if not self._active:
      return
    content = {
      'seconds': {part: round(seconds, 3) for part, seconds in self._seconds.items()},
      'restarts': self._restarts,
      'repeated_steps': self._repeated_steps,
      'time': round(self._since, 3),
      'finished': finished,
    }
    with contextlib.suppress(OSError), files.atomic_file(self._path) as file:
      file.write(json.dumps(content, indent=2) + '\n')

  def summary(self) -> str:
    """Says the shares of the parts in one line."""
    self._enter(self._stretch)
    total = sum(self._seconds.values()) or 1.0
    shares = [
      f'{part.replace("_", " ")} {seconds / total:.1%}'
      for part, seconds in self._seconds.items()
      if seconds
    ]
    said = f'goodput {self._seconds["step"] / total:.1%} of {progress.duration(total)}: '
    said += ', '.join(shares)
    if self._restarts:
      said += f' (restarts {self._restarts}, repeated steps {self._repeated_steps})'
    return said

  def _enter(self, stretch):
    now = self._clock()
    part = 'restart' if self._restarting else self._stretch.part
    self._seconds[part] += max(0.0, now - self._since)
    self._since, self._stretch = now, stretch

  def _read(self):
    if not self._active:
      return None
    try:
      return json.loads(self._path.read_text())
    except (OSError, ValueError):  # A run that has none yet, or from before there were any.
      return None
