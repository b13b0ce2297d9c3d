"""`t5x-lite serve` in a process of its own, and requests to it."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

# A transform that acts as files beside it say, while a batch is computed: while `closed` is there it
# waits, and says so by `entered`; while `broken` is there it fails.
GATE = """
import pathlib
import time

import jax

HERE = pathlib.Path(__file__).parent


def _pass(logits):
  while (HERE / 'closed').exists():
    (HERE / 'entered').touch()
    time.sleep(0.01)
  if (HERE / 'broken').exists():
    raise RuntimeError('the secret of the gate')
  return logits


def gate(logits, context):
  return jax.pure_callback(_pass, jax.ShapeDtypeStruct(logits.shape, logits.dtype), logits)
"""
_PATIENCE = 180  # Seconds, on a machine that does much else.


class Answer(NamedTuple):
  """A response; `body` is what its JSON says, or its text."""

  status: int
  headers: Mapping[str, str]
  body: object


class Server:
  """A server on a free port.

  Attributes:
    url: without a path.
    port: of 127.0.0.1.
    process: its process.
  """

  def __init__(self, run, folder, *arguments, num_devices=1):
    """Starts; `wait_until_ready` waits.

    Args:
      run: MODEL_DIR.
      folder: where its log goes.
      *arguments: of the command line.
      num_devices: that it finds.
    """
    self._log = pathlib.Path(folder) / 'serve.log'
    devices = f'--xla_force_host_platform_device_count={num_devices}'
    flags = f'{devices} --xla_backend_optimization_level=0'
    with self._log.open('w') as log:
      self.process = subprocess.Popen(
        [sys.executable, '-m', 't5x_lite', 'serve', f'--gin.MODEL_DIR={run}', '--gin.PORT=0']
        + list(map(str, arguments)),
        env=os.environ | {'XLA_FLAGS': flags},
        stdout=subprocess.DEVNULL,
        stderr=log,
      )
    found = self.wait_for(lambda: re.search(r'listening on (http://127.0.0.1:(\d+))\n', self.log()))
    self.url, self.port = found[1], int(found[2])

  def log(self) -> str:
    return self._log.read_text()

  def wait_for(self, found):
    """Returns what `found()` does as soon as that is true."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
      if result := found():
        return result
      assert self.process.poll() is None, self.log()
      time.sleep(0.02)
    raise TimeoutError(self.log())

  def wait_until_ready(self):
    self.wait_for(lambda: self.get('/health').status == 200)
    return self

  def get(self, path: str) -> Answer:
    return _open(urllib.request.Request(self.url + path))

  def post(self, path: str, body, kind='application/json', timeout=_PATIENCE) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(self.url + path, content, {'Content-Type': kind})
    return _open(request, timeout)

  def begin(self, headers: bytes, content=b'') -> bytes:
    """Begins to send a question, and returns what is answered before it ends.

    Args:
      headers: of the length of its body, each with its end of line.
      content: of the body, as much as is ever sent.
    """
    with socket.create_connection(('127.0.0.1', self.port), timeout=_PATIENCE) as connection:
      connection.sendall(
        b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
        + headers + b'\r\n' + content
      )  # fmt: skip
      return connection.recv(2**16)

  def predict(self, inputs, **given) -> Answer:
    return self.post('/predict', {'inputs': inputs, **given})

  def metric(self, name: str) -> float:
    """Returns the value of a line of /metrics; 0 where there is none."""
    found = re.search(rf'^{re.escape(name)} (\S+)$', self.get('/metrics').body, re.MULTILINE)
    return float(found[1]) if found else 0.0

  def stop(self, sig=signal.SIGTERM) -> int:
    """Returns the exit status."""
    self.process.send_signal(sig)
    return self.process.wait(timeout=_PATIENCE)


def _open(request, timeout=_PATIENCE):
  try:
    response = urllib.request.urlopen(request, timeout=timeout)
  except urllib.error.HTTPError as error:
    response = error
  with response:
    text = response.read().decode()
    is_json = response.headers.get_content_type() == 'application/json'
    return Answer(response.status, response.headers, json.loads(text) if is_json else text)


class Gate:
  """The folder of a module with GATE, and its files.

  Attributes:
    arguments: of a server whose answers pass the gate.
  """

  def __init__(self, folder):
    self._folder = folder
    module = folder / 'serving_gate.py'
    module.write_text(GATE)
    self.arguments = (f'--module={module}', '--gin.LOGITS_TRANSFORMS=[@serving_gate.gate]')

  def close(self):
    (self._folder / 'entered').unlink(missing_ok=True)
    (self._folder / 'closed').touch()

  def is_entered(self):
    """Whether a batch waits at the gate."""
    return (self._folder / 'entered').exists()

  def open(self):
    (self._folder / 'closed').unlink(missing_ok=True)

  def breaks(self, does: bool):
    (self._folder / 'broken').touch() if does else (self._folder / 'broken').unlink()
