"""How far a run is: a bar on a terminal, plain lines in a log."""

import math
import sys
import time
from collections.abc import Callable, Mapping

_BAR_FORMAT = '{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}'
_BAR_FORMAT_WITHOUT_TOTAL = '{desc} {n_fmt}{postfix}'


class Progress:
  """Shows step, loss, tokens/s and time left.

  On a terminal this is one bar; elsewhere lines such as

    step 120/1000 loss 2.345 tokens/s 3,456 eta 2m10s
  """

  def __init__(
    self,
    total_steps: int | None,
    start_step: int = 0,
    description: str = 'train',
    *,
    unit: str = 'step',
    stream=None,
    active: bool = True,
    seconds_between_lines: float = 10,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Shows the start at once, on a terminal.

    Args:
      total_steps: the last step; None where it is not known.
      start_step: the step a resumed run starts from.
      description: what is going on.
      unit: what is counted; of anything but steps the speed is shown.
      stream: where to; standard error if None.
      active: False shows nothing, for all hosts but the first.
      seconds_between_lines: in a log, the least time from one line to the next; the first and the
        last step always get one.
      clock: seconds.
    """
    self._total_steps = total_steps
    self._start_step = start_step
    self._unit = unit
    self._stream = sys.stderr if stream is None else stream
    self._active = active
    self._seconds_between_lines = seconds_between_lines
    self._clock = clock
    self._start_time = clock()
    self._last_line_time = -math.inf
    self._bar = None
    if active and self._stream.isatty():
      import tqdm  # Late: a log needs none.

      self._bar = tqdm.tqdm(
        total=total_steps,
        initial=start_step,
        desc=description,
        file=self._stream,
        bar_format=_BAR_FORMAT_WITHOUT_TOTAL if total_steps is None else _BAR_FORMAT,
        dynamic_ncols=True,
      )

  def update(self, step: int, metrics: Mapping[str, float | None] | None = None):
    """Shows that `step` steps are done.

    Args:
      step: counted from the run's very start.
      metrics: of which `loss`, `tokens_per_second` and `steps_per_second` are used, if there.
    """
    metrics = metrics or {}
    facts = self._facts(step, metrics)
    if self._bar is not None:
      self._bar.set_postfix_str(' '.join(facts), refresh=False)
      self._bar.update(step - self._bar.n)
      return
    now = self._clock()
    is_last = step == self._total_steps
    if now - self._last_line_time >= self._seconds_between_lines or is_last:
      self._last_line_time = now
      total = '' if self._total_steps is None else f'/{self._total_steps}'
      self._print(' '.join([f'{self._unit} {step}{total}', *facts]))

  def message(self, text: str):
    """Writes a line that stays, above the bar if there is one."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      self._print(text)

  def close(self):
    """Leaves the bar as it is and goes to a new line."""
    if self._bar is not None:
      self._bar.refresh()
      self._bar.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def _print(self, text):
    if self._active:
      print(text, file=self._stream, flush=True)

  def _facts(self, step, metrics):
    facts = []
    if (loss := metrics.get('loss')) is not None:
      facts.append(f'loss {loss:.3f}')
    if (tokens_per_second := metrics.get('tokens_per_second')) is not None:
      facts.append(f'tokens/s {tokens_per_second:,.0f}')
    speed = metrics.get('steps_per_second') or self._mean_speed(step)
    if speed is not None and self._unit != 'step':
      facts.append(f'{self._unit}s/s {speed:,.1f}')
    if speed is not None and self._total_steps is not None:
      facts.append(f'eta {duration(max(0, self._total_steps - step) / speed)}')
    return facts

  def _mean_speed(self, step):
    """Steps per second since the start; None if there is nothing to tell it from."""
    elapsed = self._clock() - self._start_time
    return (step - self._start_step) / elapsed if step > self._start_step and elapsed > 0 else None


def duration(seconds: float) -> str:
  """Says a time in its two largest units: `45s`, `2m10s`, `3h05m`, `2d04h`."""
  seconds = round(seconds)
  minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
  if days:
    return f'{days}d{hours % 24:02d}h'
  if hours:
    return f'{hours}h{minutes % 60:02d}m'
  if minutes:
    return f'{minutes}m{seconds % 60:02d}s'
  return f'{seconds}s'
