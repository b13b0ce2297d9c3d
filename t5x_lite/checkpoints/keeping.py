"""Which of a run's checkpoints to keep."""

import math
from collections.abc import Mapping


def steps_to_keep(
  steps: list[int],
  scores: Mapping[int, float | None],
  keep_last: int | None,
  keep_every: int | None,
  keep_best: int | None,
  best_mode: str,
) -> set[int]:
  """Which of the checkpoints (ascending) to keep: the last, every Nth, the best, or all.

  Args:
    steps: ascending.
    scores: a step's metric; None or not finite never counts as good. Of equals the earlier is best.
    keep_last, keep_every, keep_best, best_mode: see CheckpointManager.
  """
  if keep_last is None:
    return set(steps)
  keep = set(steps[-keep_last:])
  if keep_every is not None:
    keep |= {step for step in steps if step % keep_every == 0}
  if keep_best is not None:
    sign = -1 if best_mode == 'max' else 1
    known = {
      step: sign * score
      for step, score in scores.items()
      if score is not None and math.isfinite(score)
    }
    keep |= set(sorted(known, key=lambda step: (known[step], step))[:keep_best])
  return keep
