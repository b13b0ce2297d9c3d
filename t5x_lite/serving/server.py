"""The life of a server: it listens, loads its model, serves, and answers what it has before it stops."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from t5x_lite import errors
from t5x_lite.decoding import options
from t5x_lite.serving import app as serving_app
from t5x_lite.serving import engine as serving_engine

# Then a client has its response, or does not read it.
_SECONDS_TO_SEND = 5


class _Server(uvicorn.Server):
  """Drains after a signal, while it tells new requests so; a second signal ends that."""

  def __init__(
    self, config: uvicorn.Config, service: serving_app.Service, on_start: Callable[[], None]
  ):
    super().__init__(config)
    self._service = service
    self._on_start = on_start
    self._num_signals = 0
    self._deadline = None

  def handle_exit(self, sig, frame):
    """Notes a signal. uvicorn itself would listen no more, and refuse connections without a word."""
    self._num_signals += 1

  async def startup(self, sockets=None):
    await super().startup(sockets)
    self._on_start()  # From here on signals are heard.

  async def on_tick(self, counter):
    """Looks after signals, ten times a second."""
    if self._num_signals:
      self._drain()
    return await super().on_tick(counter)

  def _drain(self):
    service, now = self._service, time.monotonic()
    if self._deadline is None:
      self._deadline = now + service.limits.drain_timeout
      service.enter(serving_app.DRAINING)
      _say(f'stopping; {service.in_flight} requests to answer')
    if not service.in_flight or now >= self._deadline or self._num_signals > 1:
      service.batcher.close()
      self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
  """Returns a socket that listens; port 0 is any that is free.

  Raises:
    UserError: there is no such address, or it is taken.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family, backlog=1024)
  except (OSError, OverflowError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise errors.UserError(f'cannot listen on HOST={host} PORT={port}: {reason}') from None


def serve(
  listener: socket.socket,
  service: serving_app.Service,
  decoding: options.DecodingConfig,
  load: Callable[[], serving_engine.Engine],
):
  """Serves until SIGTERM or SIGINT, and what was asked before.

  Args:
    listener: from `listen`.
    service: what the endpoints share.
    decoding: the options of requests, where they say nothing else.
    load: returns the model; called by the thread that owns the devices, while the endpoints say that it loads.

  Raises:
    UserError: that of `load`.
  """
  config = uvicorn.Config(
    serving_app.create(service, decoding),
    lifespan='off',
    ws='none',
    access_log=False,
    log_config=None,
    server_header=False,
    timeout_graceful_shutdown=_SECONDS_TO_SEND,
  )
  failures = []

  def work():
    start = time.monotonic()
    try:
      service.engine = load()
      service.engine.compile()
      service.enter(serving_app.READY)
      if service.state == serving_app.READY:
        _say(f'ready after {time.monotonic() - start:.1f} s')
      service.batcher.work(service.engine.answer)
    except Exception as error:
      failures.append(error)
      server.should_exit = True

  def start():
    host, port = listener.getsockname()[:2]
    _say(f'listening on http://{f"[{host}]" if ":" in host else host}:{port}')
    worker.start()

  worker = threading.Thread(target=work, name='devices', daemon=True)
  server = _Server(config, service, start)
  server.run(sockets=[listener])
  if failures:
    raise failures[0]
  worker.join(1)
  if worker.is_alive():
    # It computes or compiles what nobody waits for, and would crash if Python ended below it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _say(text):
  print(f't5x-lite: {text}', file=sys.stderr, flush=True)
