"""Ends a host when another one of its job has died, hangs, or ended with an error.

jax leaves a host waiting for one that has died, until it ends the process with a stack trace and
without the name of a machine. Here each host is connected with the first one. What they tell each
other, in lines of JSON:

  {"kind": "beat"}                                            all the time, both sides
  {"kind": "done"}                                            a host is at its end; then all are
  {"kind": "end", "index": 2, "status": 2, "reason": "..."}   a host ends too early

A host that dies breaks its connection, and one that hangs is not heard of. The first host passes
on to the others what it learns; where that dies itself, all see it.
"""

import os
import selectors
import sys
import threading
import time
from collections.abc import Callable

from t5x_lite import errors
from t5x_lite.hosts import meeting

# How long a host that ends waits for the others to hear of it.
_SECONDS_TO_TELL = 5
# How much longer than the others the first host lives, since jax complains where that is gone.
_SECONDS_TO_GO = 0.5


class Watch(threading.Thread):
  """The thread that listens to the other hosts, and has this process end."""

  def __init__(
    self,
    index: int,
    hosts: meeting.Meeting,
    timeout: float,
    end: Callable[[str, int], None],
  ):
    """Prepares; `start` begins.

    Args:
      index: of this host.
      hosts: all of them.
      timeout: seconds without a word of a host after which it counts as dead.
      end: function of a reason and an exit status that ends this process.
    """
    super().__init__(name='watch over hosts', daemon=True)
    self._index = index
    self._names = hosts.names
    self._peers = {peer.index: peer for peer in hosts.peers}
    self._timeout = timeout
    self._end = end
    self._lock = threading.Lock()
    self._not_done = set(range(len(hosts.names))) if index == 0 else {0}
    self._all_done = threading.Event()
    self._is_ending = False

  def run(self):
    """Listens until the others have hung up."""
    period = min(self._timeout / 4, 5)
    last_beat = -period
    with selectors.DefaultSelector() as selector:
      for peer in self._peers.values():
        peer.connection.settimeout(1)
        peer.heard = time.monotonic()
        selector.register(peer.connection, selectors.EVENT_READ, peer)
      while self._peers:
        for key, _ in selector.select(period):
          if not self._receive(key.data):
            selector.unregister(key.data.connection)
        now = time.monotonic()
        is_due = now >= last_beat + period
        last_beat = now if is_due else last_beat
        for peer in self._peers.values():
          if is_due:
            peer.send('beat')
          if now > peer.heard + self._timeout:
            self._lose(peer, f'has not been heard of for {self._timeout:g} s')

  def _receive(self, peer) -> bool:
    """Takes what a host says; returns whether it is still there."""
    try:
      for message in peer.receive():
        if message['kind'] == 'end':
          self._end_with(message['index'], message['status'], message['reason'])
        elif message['kind'] == 'done':
          self._count_done(peer.index)
    except OSError:
      del self._peers[peer.index]
      if not self._all_done.is_set():
        self._lose(peer, 'has died')
      return False
    return True

  def _lose(self, peer, what):
    reason = (
      f'host {peer.index} ({self._names[peer.index]}) {what}, so all others end too; '
      'started again, they go on from what was saved last'
    )
    self._end_with(peer.index, errors.HostError.status, reason)

  def _end_with(self, index, status, reason):
    with self._lock:
      if self._is_ending:
        return
      self._is_ending = True
    self._tell(index, status, reason)
    if self._index == 0 and len(self._peers) > 1:
      time.sleep(_SECONDS_TO_GO)
    self._end(reason, status)

  def _tell(self, index, status, reason):
    for peer in list(self._peers.values()):
      if self._index in (0, index):
        peer.send('end', index=index, status=status, reason=reason)

  def _count_done(self, index):
    with self._lock:
      self._not_done.discard(index)
      if self._not_done:
        return
    if self._index == 0:
      for peer in list(self._peers.values()):
        peer.send('done')
    self._all_done.set()

  def wait_until_all_are_done(self):
    """Returns when all hosts have come here."""
    if self._index == 0:
      self._count_done(0)
    else:
      self._peers[0].send('done')
    self._all_done.wait()

  def announce(self, status: int, reason: str):
    """Tells the others that this host ends too early, so that they do likewise.

    Args:
      status: its exit status.
      reason: one line.
    """
    with self._lock:
      if self._is_ending:
        return
      self._is_ending = True
    self._tell(self._index, status, f'host {self._index} ({self._names[self._index]}): {reason}')
    self.join(_SECONDS_TO_TELL)


def end_process(reason: str, status: int):
  """Ends this process at once, whatever its other threads wait for."""
  sys.stderr.write(f't5x-lite: error: {reason}\n')
  sys.stderr.flush()
  os._exit(status)
