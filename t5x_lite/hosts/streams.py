"""The streams that a run's data is divided into, and which of them a host reads.

Stream s of S gives the rows from s * B / S to (s + 1) * B / S of each batch of B rows. S is chosen
when a run begins, so that each host reads rows of its own, and stays as it is: other hosts, more or
fewer, read those streams that have the rows that their devices hold. So the batches of a run are
the same whatever hosts it goes on with; only who reads them changes, and how much in vain.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from t5x_lite import errors


@dataclasses.dataclass(frozen=True)
class Share:
  """What one host reads of each batch.

  Attributes:
    batch_size: rows of a batch, over all hosts.
    num_streams: of the run.
    rows: those that the host's devices hold, in order.
    kept: the streams whose position it is the one to save.
  """

  batch_size: int
  num_streams: int
  rows: Sequence[int]
  kept: frozenset[int]

  @property
  def streams(self) -> list[int]:
    """The streams that have these rows."""
    return _streams_of(self.rows, self.batch_size, self.num_streams)

  def name(self, stream: int) -> str:
    """Returns what a stream's position is saved as."""
    return f'{stream}-of-{self.num_streams}'

  @property
  def names(self) -> list[str]:
    """Those of `streams`."""
    return [self.name(stream) for stream in self.streams]


def share(
  rows_of_hosts: Mapping[int, Sequence[int]],
  host: int,
  batch_size: int,
  saved: Iterable[str] = (),
) -> Share:
  """Returns what a host reads.

  Args:
    rows_of_hosts: see `sharding.rows_of_hosts`.
    host: its number.
    batch_size: rows of a batch, over all hosts.
    saved: names of the streams of the run, see `Share.name`, if it has begun.

  Raises:
    UserError: the batch does not divide by the streams.
  """
  num_streams = next((int(name.rpartition('-')[2]) for name in saved), None)
  if num_streams is None:
    num_streams = max(1, batch_size // max(map(len, rows_of_hosts.values())))
    while batch_size % num_streams:
      num_streams -= 1
  elif batch_size % num_streams:
    raise errors.UserError(
      f'BATCH_SIZE={batch_size} is not divisible by the {num_streams} streams that the data of '
      'this run was divided into: give the BATCH_SIZE that it began with'
    )
  first_host = {}
  for each in sorted(rows_of_hosts):
    for stream in _streams_of(rows_of_hosts[each], batch_size, num_streams):
      first_host.setdefault(stream, each)
  kept = frozenset(stream for stream, each in first_host.items() if each == host)
  return Share(batch_size, num_streams, rows_of_hosts[host], kept)


def _streams_of(rows, batch_size, num_streams):
  return sorted({row * num_streams // batch_size for row in rows})


class HostBatches:
  """Iterator of one host's rows of each batch, from one stream or several."""

  def __init__(self, what: Share, open_stream: Callable[..., Iterator]):
    """Opens the streams.

    Args:
      what: see `share`.
      open_stream: function of stream=s and num_streams=S that returns an iterator of dicts of
        arrays [batch_size / S, ...], with `get_state() -> bytes` and `set_state`.
    """
    self._share = what
    self._streams = {
      stream: open_stream(stream=stream, num_streams=what.num_streams) for stream in what.streams
    }
    size = what.batch_size // what.num_streams
    read = [row for stream in self._streams for row in range(stream * size, (stream + 1) * size)]
    self._places = np.searchsorted(read, what.rows)

  def __iter__(self):
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    parts = [next(stream) for stream in self._streams.values()]
    return {name: np.concatenate([part[name] for part in parts])[self._places] for name in parts[0]}

  def get_state(self) -> dict[str, bytes]:
    """The positions that this host is to save, by name, after the batch returned last."""
    return {
      self._share.name(stream): self._streams[stream].get_state() for stream in self._share.kept
    }

  def set_state(self, states: Mapping[str, bytes]):
    """Continues after the batch that was the last before these positions were saved.

    Args:
      states: of all streams that this host reads, see `Share.names`.

    Raises:
      UserError: the configuration of the data differs.
    """
    for stream, iterator in self._streams.items():
      iterator.set_state(states[self._share.name(stream)])
