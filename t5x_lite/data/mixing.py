"""How often the tasks of a mixture are drawn (Raffel et al. 2020, section 3.5.2)."""

import dataclasses

import seqio

from t5x_lite import choices, errors


@dataclasses.dataclass(frozen=True)
class ProportionalRate:
  """A rate of `seqio.MixtureRegistry.add`: in proportion to the number of a task's training examples.

  It is (factor * min(examples, MIXING_MAXIMUM)) ** (1 / MIXING_TEMPERATURE), the two as chosen for a run: examples-
  proportional mixing with an artificial limit, and temperature-scaled mixing.

  Attributes:
    num_examples: of the task; None counts them when the mixture is used.
    factor: what the rate is multiplied with.
  """

  num_examples: int | None = None
  factor: float = 1.0

  def __call__(self, task: seqio.Task) -> float:
    """The rate; a UserError if the examples cannot be counted."""
    count = self.num_examples
    if count is None:
      count = task.num_input_examples('train')
    if count is None:
      raise errors.UserError(
        f'the examples of {task.name!r} are not counted, so that it has no rate in a mixture: read it '
        'from TFDS, or give it a rate of its own'
      )
    current = choices.current()
    limited = min(count, count if current.mixing_maximum is None else current.mixing_maximum)
    return (self.factor * limited) ** (1 / current.mixing_temperature)


def check(mixture: seqio.Task | seqio.Mixture, maximum: int | None, temperature: float) -> None:
  """Refuses settings that are out of range, or that `mixture` does not ask for.

  Raises:
    UserError: naming the macro.
  """
  given = []
  if maximum is not None:
    given.append(f'MIXING_MAXIMUM={maximum}')
    if maximum < 1:
      raise errors.UserError(f'{given[0]} must be at least 1, or None')
  if temperature != 1.0:
    given.append(f'MIXING_TEMPERATURE={temperature}')
    if temperature <= 0:
      raise errors.UserError(f'{given[-1]} must be positive')
  if given and not any(isinstance(rate, ProportionalRate) for rate in _rates(mixture)):
    raise errors.UserError(
      f'{" and ".join(given)} is for mixtures with proportional rates, and {mixture.name!r} is none'
    )


def _rates(mixture):
  """All rates of a mixture and of those that it is made of; a task has none."""
  if isinstance(mixture, seqio.Mixture):
    yield from mixture._task_to_rate.values()
    for inner in mixture._sub_mixtures:
      yield from _rates(inner)
