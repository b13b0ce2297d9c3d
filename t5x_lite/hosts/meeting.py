"""How the hosts of a job find each other: all others call the first one, which waits for them.

That is before jax is told of any of it, since jax ends the process where a host does not come or
comes with other settings. The connections stay, see `watch.py`. Messages are lines of JSON:

  {"kind": "hello", "index": 2, "count": 4, "name": "node7", "version": "0.1.0"}
  {"kind": "welcome", "names": ["node5", "node6", ...], "jax_address": "node5:40123"}
  {"kind": "end", "status": 2, "reason": "..."}, where they do not fit together
"""

import contextlib
import dataclasses
import json
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import t5x_lite
from t5x_lite import errors
from t5x_lite.hosts.clusters import Place

_SECONDS_TO_INTRODUCE = 10
_SECONDS_BETWEEN_CALLS = 0.3


class Peer:
  """A connection with another host.

  Attributes:
    connection: its socket.
    index: of the other host.
    heard: when it was last heard of, in seconds of `time.monotonic`.
  """

  def __init__(self, connection: socket.socket, index: int = 0):
    self.connection = connection
    self.index = index
    self.heard = time.monotonic()
    self._received = b''

  def send(self, kind: str, **content):
    """Sends a message. That the other has gone shows where it is read, not here."""
    line = json.dumps({'kind': kind, **content}).encode() + b'\n'
    with contextlib.suppress(OSError):
      self.connection.sendall(line)

  def receive(self) -> list[dict[str, Any]]:
    """Returns the messages that have come; raises OSError if the connection has ended."""
    data = self.connection.recv(2**16)
    if not data:
      raise ConnectionError('it hung up')
    self.heard = time.monotonic()
    *lines, self._received = (self._received + data).split(b'\n')
    return [json.loads(line) for line in lines]

  def receive_one(self, timeout: float) -> dict[str, Any]:
    """Waits for the first message; raises OSError, or ValueError if it is none of ours."""
    self.connection.settimeout(timeout)
    while not (messages := self.receive()):
      pass
    return messages[0]

  def has_hung_up(self) -> bool:
    """Whether one that is to be silent is there no more."""
    return bool(select.select([self.connection], [], [], 0)[0])


@dataclasses.dataclass(frozen=True)
class Meeting:
  """The hosts of a job, once all are there.

  Attributes:
    names: of the machines, in the order of the hosts.
    jax_address: where jax's own coordinator is to listen.
    peers: those connected with this host: all others with the first one.
  """

  names: Sequence[str]
  jax_address: str
  peers: Sequence[Peer]


def meet(place: Place, timeout: float) -> Meeting:
  """Waits until all hosts are there.

  Args:
    place: of this host.
    timeout: seconds.

  Raises:
    UserError: the hosts were not started alike, or the address is none.
    HostError: not all have come in time.
  """
  host, _, port = place.address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise errors.UserError(
      f'--coordinator_address={place.address} must be HOST:PORT, of the machine of process 0'
    )
  own = {
    'index': place.index,
    'count': place.count,
    'name': socket.gethostname(),
    'version': t5x_lite.__version__,
  }
  if place.index > 0:
    return _call_first(host, int(port), own, timeout)
  names, peers = _receive_all(int(port), own, timeout)
  with _listen(0) as free:
    jax_address = f'{host}:{free.getsockname()[1]}'
  for peer in peers:
    peer.send('welcome', names=names, jax_address=jax_address)
  return Meeting(names, jax_address, peers)


def _listen(port):
  has_both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if has_both else socket.AF_INET
  return socket.create_server(('', port), family=family, dualstack_ipv6=has_both)


def _receive_all(port, own, timeout):
  """Returns the names of all hosts, and connections with those after the first."""
  try:
    listener = _listen(port)
  except OSError as error:
    why = os.strerror(error.errno)
    raise errors.UserError(
      f'process 0 cannot listen on port {port} ({why}): if no other process 0 runs on this '
      'machine, give another port in --coordinator_address'
    ) from None
  came, callers = {0: own}, []
  deadline = time.monotonic() + timeout
  try:
    with listener:
      while len(came) < own['count']:
        listener.settimeout(max(deadline - time.monotonic(), 0.01))
        peer = Peer(listener.accept()[0])
        try:
          hello = peer.receive_one(_SECONDS_TO_INTRODUCE)
          peer.index = int(hello['index'])
        except (OSError, ValueError, TypeError, KeyError):  # Not from a host.
          peer.connection.close()
          continue
        for gone in [each for each in callers if each.has_hung_up()]:
          callers.remove(gone)  # It may be started again.
          del came[gone.index]
        callers.append(peer)
        _check(hello, own, came.get(peer.index))
        came[peer.index] = hello
  except TimeoutError:
    missing = ', '.join(str(index) for index in range(own['count']) if index not in came)
    error = errors.HostError(
      f'of {own["count"]} hosts, number {missing} did not come within {timeout:g} s: started all? '
      f'Can they reach port {port} of {own["name"]}?'
    )
  except errors.UserError as wrong:
    error = wrong
  else:
    return [came[index]['name'] for index in sorted(came)], callers
  for peer in callers:
    peer.send('end', status=error.status, reason=str(error))
    peer.connection.close()
  raise error


def _check(hello, own, other):
  """Raises UserError if a host that comes is not as the first one, or there was another one."""
  what = f'host {hello["index"]} ({hello["name"]})'
  first = f'host 0 ({own["name"]})'
  if hello['count'] != own['count']:
    raise errors.UserError(
      f'{what} has --num_processes={hello["count"]}, {first} has {own["count"]}: give all the same'
    )
  if other is not None or not 0 < hello['index'] < own['count']:
    name = (other or own)['name']
    raise errors.UserError(
      f'two processes have --process_id={hello["index"]}, on {name} and on {hello["name"]}: '
      f'number them from 0 to {own["count"] - 1}'
    )
  if hello['version'] != own['version']:
    raise errors.UserError(
      f'{what} runs t5x-lite {hello["version"]}, {first} {own["version"]}: install the same'
    )


def _call_first(host, port, own, timeout):
  deadline = time.monotonic() + timeout
  while True:
    left = deadline - time.monotonic()
    try:
      peer = Peer(socket.create_connection((host.strip('[]'), port), timeout=max(left, 0.01)))
      break
    except OSError as error:
      if left < _SECONDS_BETWEEN_CALLS:
        raise errors.HostError(
          f'host 0 cannot be reached at {host}:{port} within {timeout:g} s ({error}): was it '
          'started, and is that port open?'
        ) from None
      time.sleep(_SECONDS_BETWEEN_CALLS)
  peer.send('hello', **own)
  try:
    # Longer than the first host waits for the others, since it knows who is missing.
    answer = peer.receive_one(timeout + _SECONDS_TO_INTRODUCE)
  except (OSError, ValueError) as error:
    raise errors.HostError(f'host 0 at {host}:{port} did not answer: {error}') from None
  if answer['kind'] == 'end':
    raise _error_of(answer)
  return Meeting(answer['names'], answer['jax_address'], [peer])


def _error_of(answer: Mapping[str, Any]) -> Exception:
  of_user = answer['status'] == errors.UserError.status
  return (errors.UserError if of_user else errors.HostError)(answer['reason'])
