"""A server that is asked too much, whose model fails or takes too long, and that is told to stop."""

import concurrent.futures
import signal
import socket
import sys

import pytest
import random_runs
import serving_process

from t5x_lite import cli, serving

pytestmark = pytest.mark.slow

LINES = random_runs.LINES[:5]
QUEUE = 40


@pytest.fixture(scope='module')
def gate(tmp_path_factory):
  return serving_process.Gate(tmp_path_factory.mktemp('gate'))


@pytest.fixture(scope='module')
def server(random_run, gate, tmp_path_factory):
  """One whose batches pass the gate, and which is soon out of patience."""
  bounds = (f'--gin.MAX_QUEUE={QUEUE}', f'--gin.MAX_TEXTS={QUEUE}', '--gin.REQUEST_TIMEOUT=10.0')
  server = serving_process.Server(
    random_run, tmp_path_factory.mktemp('server'), *gate.arguments, *bounds
  )
  yield server.wait_until_ready()
  server.process.kill()
  server.process.wait()


@pytest.fixture
def pool():
  with concurrent.futures.ThreadPoolExecutor(50) as pool:
    yield pool


@pytest.fixture(autouse=True)
def opened(gate, pool):
  """Lets waiting requests end, whatever a test has found."""
  yield
  gate.open()


def block(server, gate, pool):
  """Returns the future of a request whose batch waits at the gate."""
  gate.close()
  future = pool.submit(server.predict, 'red')
  server.wait_for(gate.is_entered)
  return future


def wait_for_queue(server, number):
  server.wait_for(lambda: server.metric('t5x_lite_queue_texts') == number)


def test_concurrent_requests_share_batches(server, gate, pool):
  before = server.metric('t5x_lite_batch_texts_count')
  requests = [block(server, gate, pool)]
  requests += [pool.submit(server.predict, LINES[i % 5]) for i in range(QUEUE)]
  wait_for_queue(server, QUEUE)
  gate.open()
  assert [each.result().status for each in requests] == [200] * (QUEUE + 1)
  assert server.metric('t5x_lite_batch_texts_count') - before == 1 + 3  # Of 16, 16 and 8.


def test_a_full_queue_answers_429_and_the_server_lives(server, gate, pool):
  requests = [block(server, gate, pool), pool.submit(server.predict, ['red'] * QUEUE)]
  wait_for_queue(server, QUEUE)
  refused = server.predict('red')
  assert refused.status == 429 and int(refused.headers['Retry-After']) >= 1
  assert refused.body == {'error': 'the queue has no room: 40 of 40 texts'}
  assert server.get('/health').status == 200  # It only works.
  gate.open()
  assert [each.result().status for each in requests] == [200, 200]
  assert server.predict('red').status == 200


def test_what_takes_too_long_is_answered_504_and_not_computed(server, gate, pool):
  before = server.metric('t5x_lite_batch_texts_sum')
  requests = [block(server, gate, pool), pool.submit(server.predict, LINES)]
  for each in requests:
    assert each.result().status == 504
    assert each.result().body == {'error': 'not answered within 10 s'}
  assert server.metric('t5x_lite_queue_texts') == 0
  gate.open()
  assert server.predict('red').status == 200
  assert server.metric('t5x_lite_batch_texts_sum') - before == 2


def test_a_request_that_is_never_sent_whole_is_given_up(server):
  assert server.begin(b'Content-Length: 100\r\n', b'{').startswith(b'HTTP/1.1 504 ')


def test_a_client_that_goes_before_it_has_asked_does_no_harm(server):
  def gone():
    return server.metric('t5x_lite_requests_total{endpoint="/predict",status="499"}')

  before = gone()
  with socket.create_connection(('127.0.0.1', server.port)) as connection:
    connection.sendall(
      b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
      b'Content-Length: 100\r\n\r\n{'
    )
  server.wait_for(lambda: gone() == before + 1)
  assert 'Traceback' not in server.log()


def test_a_client_that_has_gone_leaves_the_queue(server, gate, pool):
  first = block(server, gate, pool)
  content = b'{"inputs": "red"}'
  with socket.create_connection(('127.0.0.1', server.port)) as connection:
    connection.sendall(
      b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
      b'Content-Length: %d\r\n\r\n%s' % (len(content), content)
    )
    wait_for_queue(server, 1)
  wait_for_queue(server, 0)
  gate.open()
  assert first.result().status == 200


def test_a_failure_of_the_model_is_answered_without_its_secrets(server, gate):
  gate.breaks(True)
  failed = server.predict('red')
  gate.breaks(False)
  assert failed.status == 500 and list(failed.body) == ['error']
  assert 'secret' not in failed.body['error'] and '\n' not in failed.body['error']
  name = failed.body['error'].split()[2].rstrip(',')
  assert f'error {name} at /predict' in server.log() and 'the secret of the gate' in server.log()
  assert server.predict('red').status == 200


def test_it_answers_what_it_has_before_it_stops(random_run, gate, pool, tmp_path):
  server = serving_process.Server(random_run, tmp_path, *gate.arguments)
  assert server.get('/health').body == {'status': 'loading'}
  assert server.get('/health/live').status == 200
  refused = server.predict('red')
  assert refused.status == 503
  assert refused.body == {'error': 'the server is still loading its model'}
  server.wait_until_ready()
  requests = [block(server, gate, pool), pool.submit(server.predict, LINES)]
  wait_for_queue(server, len(LINES))
  server.process.send_signal(signal.SIGTERM)
  server.wait_for(lambda: 'stopping; 2 requests to answer' in server.log())
  refused = server.predict('red')
  assert refused.status == 503 and refused.body == {'error': 'the server is stopping'}
  assert server.get('/health').status == 503 and server.get('/health/live').status == 200
  gate.open()
  assert [each.result().status for each in requests] == [200, 200]
  assert server.process.wait(timeout=60) == 0
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(('127.0.0.1', server.port))


@pytest.mark.parametrize('reason', ['its patience ends', 'it is told twice'])
def test_it_stops_without_answers(random_run, gate, pool, tmp_path, reason):
  patience = 0.5 if reason == 'its patience ends' else 600.0
  server = serving_process.Server(
    random_run, tmp_path, *gate.arguments, f'--gin.DRAIN_TIMEOUT={patience}'
  ).wait_until_ready()
  requests = [block(server, gate, pool), pool.submit(server.predict, LINES)]
  wait_for_queue(server, len(LINES))
  server.process.send_signal(signal.SIGTERM)
  server.wait_for(lambda: 'stopping; 2 requests to answer' in server.log())
  if reason == 'it is told twice':
    server.process.send_signal(signal.SIGTERM)
  assert [each.result().status for each in requests] == [503, 503]
  assert server.process.wait(timeout=60) == 0  # Though the gate is closed.


def test_it_stops_while_it_loads(random_run, tmp_path):
  server = serving_process.Server(random_run, tmp_path)
  assert server.stop(signal.SIGINT) == 0
  assert 'Traceback' not in server.log() and 'ready' not in server.log()


def command(run, *arguments):
  return cli.main(['serve', f'--gin.MODEL_DIR={run}', '--gin.BATCH_SIZE=8', *arguments])


def test_mistakes_are_one_line(random_run, tmp_path, capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    assert command(random_run, f'--gin.PORT={port}') == 2
  assert (
    f'cannot listen on HOST=127.0.0.1 PORT={port}: Address already in use'
    in capsys.readouterr().err
  )
  for run, flag, told in (
    (tmp_path / 'none', '--gin.PORT=0', 'there is no such folder'),
    (random_run, '--gin.HOST=no.such.host.invalid', 'cannot listen on HOST=no.such.host.invalid'),
    (random_run, '--gin.PORT=70000', 'cannot listen on HOST=127.0.0.1 PORT=70000'),
    (random_run, '--gin.MAX_QUEUE=0', 'MAX_QUEUE=0 must be above 0'),
    (random_run, '--gin.CHECKPOINT=all', "CHECKPOINT='all' are several"),
  ):
    assert command(run, flag) == 2
    error = capsys.readouterr().err
    assert told in error and error.count('\n') == 1, error
  # What is found while it loads.
  assert command(random_run, '--gin.PORT=0', '--gin.NUM_BEAMS=20') == 2
  assert 'num_beams and num_answers=20 may be at most 16' in capsys.readouterr().err


def test_a_missing_package_is_told_with_what_installs_it(random_run, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'fastapi', None)
  for name in ('app', 'server'):
    monkeypatch.delitem(sys.modules, f't5x_lite.serving.{name}', raising=False)
    monkeypatch.delattr(serving, name, raising=False)
  assert command(random_run, '--gin.PORT=0') == 2
  told = "t5x-lite: error: `t5x-lite serve` needs fastapi: pip install 't5x_lite[serve]'\n"
  assert capsys.readouterr().err == told
