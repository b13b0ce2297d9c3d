"""Length buckets: inputs of like length together, so that short ones do not pay for long ones."""

import itertools
from collections.abc import Iterator, Sequence

_SHORTEST = 32


def bucket(length: int, longest: int) -> int:
  """Returns the length to which a batch is padded: a power of two, so that few shapes are compiled.

  Args:
    length: that of its longest row.
    longest: the most there may be.
  """
  power = _SHORTEST
  while power < length:
    power *= 2
  return min(power, longest)


def batches(
  lengths: Sequence[int], batch_size: int, longest: int, *, mixed: bool
) -> Iterator[tuple[list[int], int]]:
  """Divides rows into batches of like length.

  Args:
    lengths: the tokens in each row.
    batch_size: the most rows of a batch.
    longest: the most tokens there may be.
    mixed: whether rows of several buckets may share a batch, padded for the longest of them. That makes fewer batches;
      but how a row is padded, and so how its sums are rounded, then depends on the others.

  Yields:
    (indices of rows, the length to pad them to), from short to long; rows as long as each other stay in their order.
  """
  order = sorted(range(len(lengths)), key=lambda i: lengths[i])
  groups = itertools.groupby(order, lambda i: longest if mixed else bucket(lengths[i], longest))
  for _, group in groups:
    rows = iter(group)
    while indices := list(itertools.islice(rows, batch_size)):
      yield indices, bucket(lengths[indices[-1]], longest)
