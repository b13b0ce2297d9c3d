"""Servers that tests share."""

import pytest
import serving_process


@pytest.fixture(scope='module')
def server(random_run, tmp_path_factory):
  """A server on two devices."""
  folder = tmp_path_factory.mktemp('server')
  server = serving_process.Server(random_run, folder, num_devices=2).wait_until_ready()
  yield server
  server.process.kill()
  server.process.wait()
