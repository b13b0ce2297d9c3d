"""Length buckets: inputs of like length together, so that short ones do not pay for long ones."""

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


def batches(lengths: Sequence[int], batch_size: int, longest: int) -> Iterator[tuple[list, int]]:
  """Divides rows into batches of like length.

  Args:
    lengths: the tokens in each row.
    batch_size: the most rows of a batch.
    longest: the most tokens there may be.

  Yields:
    (indices of rows, the length to pad them to), from short to long; rows as long as each other stay in their order.
  """
  order = sorted(range(len(lengths)), key=lambda i: lengths[i])
  for start in range(0, len(order), batch_size):
    indices = order[start : start + batch_size]
    yield indices, bucket(lengths[indices[-1]], longest)
