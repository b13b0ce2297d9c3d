"""Speed of a run between two log points."""

import contextlib
import time
from collections.abc import Callable

import jax

from t5x_lite.monitoring import flops


class Throughput:
  """Turns counts of steps and tokens into rates over the time since the last report.

  Time spent inside `paused()`, on evaluation or checkpoints, is not the train step's and does
  not count.
  """

  def __init__(
    self,
    *,
    flops_per_step: float | None = None,
    total_peak_flops: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Starts the clock.

    Args:
      flops_per_step: of the global batch; None where unknown.
      total_peak_flops: peak FLOP/s of all devices together; None where unknown.
      clock: seconds.
    """
    self._flops_per_step = flops_per_step
    self._total_peak_flops = total_peak_flops
    self._clock = clock
    self.restart()

  def restart(self):
    """Forgets what was counted; to be called after the first step, which is mostly compilation."""
    self._start = self._clock()
    self._steps = self._target_tokens = self._tokens = 0

  @contextlib.contextmanager
  def paused(self):
    """Leaves the time spent inside out of the rates."""
    before = self._clock()
    try:
      yield
    finally:
      self._start += self._clock() - before

  def count(self, *, steps: int = 1, target_tokens: float = 0, tokens: float = 0):
    """Adds finished steps and their tokens, of the global batch; `tokens` has the inputs too."""
    self._steps += steps
    self._target_tokens += target_tokens
    self._tokens += tokens

  def report(self) -> dict[str, float | None]:
    """The rates since the last report, and a new start.

    Returns:
      `steps_per_second`, `target_tokens_per_second`, `tokens_per_second` (inputs and targets, no
      padding) and `mfu`; a value is None where nothing was counted or, for `mfu`, where the
      device's peak is not known.
    """
    seconds = self._clock() - self._start
    steps = self._steps
    rates = {
      'steps_per_second': steps,
      'target_tokens_per_second': self._target_tokens,
      'tokens_per_second': self._tokens,
    }
    self.restart()
    if not steps or seconds <= 0:
      return dict.fromkeys([*rates, 'mfu'])
    report = {name: count / seconds for name, count in rates.items()}
    report['mfu'] = None
    if self._flops_per_step is not None:
      report['mfu'] = flops.mfu(
        self._flops_per_step, report['steps_per_second'], self._total_peak_flops
      )
    return report


def of_training(config, batch_size: int, lengths: tuple[int, int], trained_share: float):
  """Returns a `Throughput` of training steps on all devices; see `flops.train_step_flops`."""
  peak = flops.peak_flops(jax.devices()[0].device_kind, config.dtype)
  return Throughput(
    flops_per_step=flops.train_step_flops(config, batch_size, *lengths, trained_share),
    total_peak_flops=peak and peak * jax.device_count(),
  )
