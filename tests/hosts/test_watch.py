"""Hosts that find each other, and end when one of them does."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from t5x_lite import errors
from t5x_lite.hosts import clusters, meeting

# A host that does nothing, for as long as its standard input says nothing.
HOST = """
import sys
from t5x_lite.hosts import clusters, meeting, watch

address, count, index, timeout = sys.argv[1:]
place = clusters.Place(address, int(count), int(index))
watching = watch.Watch(place.index, meeting.meet(place, 30), float(timeout), watch.end_process)
watching.start()
print('here', flush=True)
status = int(sys.stdin.readline())
if status:
  watching.announce(status, 'it has made a mistake')
else:
  watching.wait_until_all_are_done()
sys.exit(status)
"""


def free_address():
  with socket.create_server(('', 0)) as server:
    return f'localhost:{server.getsockname()[1]}'


@pytest.fixture
def hosts():
  """Three processes that have found each other."""
  address = free_address()
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', HOST, address, '3', str(index), '2'],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(3)
  ]
  for process in processes:
    assert process.stdout.readline() == 'here\n', process.communicate()[1]
  yield processes
  for process in processes:
    process.kill()
    process.communicate()


def tell(process, status):
  """Has a host come to its end, in order if `status` is 0."""
  process.stdin.write(f'{status}\n')
  process.stdin.flush()


@pytest.mark.parametrize(
  ('number', 'what'),
  [(signal.SIGKILL, 'has died'), (signal.SIGSTOP, 'has not been heard of for 2 s')],
)
@pytest.mark.parametrize('victim', [0, 1])
def test_a_host_that_dies_or_hangs_ends_the_others_by_its_name(hosts, victim, number, what):
  start = time.monotonic()
  hosts[victim].send_signal(number)
  for index in {0, 1, 2} - {victim}:
    assert hosts[index].wait(timeout=20) == errors.HostError.status == 75
    printed = hosts[index].stderr.read()
    assert printed.count('\n') == 1
    expected = f't5x-lite: error: host {victim} ({socket.gethostname()}) {what}, so all'
    assert printed.startswith(expected)
  assert time.monotonic() - start < 10


@pytest.mark.parametrize('mistaken', [0, 2])
def test_an_error_of_one_host_is_that_of_all(hosts, mistaken):
  tell(hosts[mistaken], 2)
  for index, process in enumerate(hosts):
    assert process.wait(timeout=20) == 2
    printed = process.stderr.read()
    if index != mistaken:
      assert f'host {mistaken} ({socket.gethostname()}): it has made a mistake\n' in printed


def test_hosts_that_come_to_the_end_wait_for_each_other(hosts):
  for index in (2, 0):
    tell(hosts[index], 0)
  time.sleep(3)  # Longer than a host may say nothing.
  assert [process.poll() for process in hosts] == [None] * 3
  tell(hosts[1], 0)
  for process in hosts:
    assert process.wait(timeout=20) == 0
    assert process.stderr.read() == ''


def meet(places, timeout=30):
  """Returns what becomes of hosts: a `Meeting`, or an error."""
  results = [None] * len(places)

  def one(i):
    try:
      results[i] = meeting.meet(places[i], timeout)
    except (errors.UserError, errors.HostError) as error:
      results[i] = error

  threads = [threading.Thread(target=one, args=(i,)) for i in range(len(places))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return results


def test_who_is_no_host_does_not_disturb():
  address = free_address()
  first = threading.Thread(target=meet, args=([clusters.Place(address, 2, 0)],))
  first.start()
  port = int(address.rpartition(':')[2])
  while True:
    try:
      stranger = socket.create_connection(('localhost', port))
      break
    except ConnectionRefusedError:
      time.sleep(0.01)
  stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
  [found] = meet([clusters.Place(address, 2, 1)])
  first.join()
  stranger.close()
  assert list(found.names) == [socket.gethostname()] * 2


@pytest.mark.parametrize(
  ('others', 'kind', 'message'),
  [
    ([(3, 1)], errors.UserError, r'host 1 \(.*\) has --num_processes=3, host 0 \(.*\) has 4'),
    ([(4, 1), (4, 1)], errors.UserError, 'two processes have --process_id=1, on .* and on'),
    ([(4, 1)], errors.HostError, 'of 4 hosts, number 2, 3 did not come within 1 s'),
  ],
)
def test_hosts_that_do_not_fit_together_are_all_told(others, kind, message):
  address = free_address()
  places = [clusters.Place(address, 4, 0), *(clusters.Place(address, *each) for each in others)]
  results = meet(places, timeout=1)
  assert {type(result) for result in results} == {kind}
  for result in results:
    assert re.search(message, str(result)), result


def test_another_version_is_refused():
  own = {'count': 2, 'name': 'a', 'version': '1'}
  with pytest.raises(errors.UserError, match=r'host 1 \(b\) runs t5x-lite 2, host 0 \(a\) 1'):
    meeting._check({'index': 1, 'count': 2, 'name': 'b', 'version': '2'}, own, None)


def test_a_first_host_that_is_not_there_is_told_with_the_address():
  address = free_address()
  [result] = meet([clusters.Place(address, 2, 1)], timeout=1)
  assert isinstance(result, errors.HostError)
  assert f'host 0 cannot be reached at {address} within 1 s' in str(result)


def test_a_port_that_is_taken_is_a_mistake():
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    [result] = meet([clusters.Place(f'localhost:{port}', 2, 0)])
  assert isinstance(result, errors.UserError)
  assert f'process 0 cannot listen on port {port} (Address already in use)' in str(result)
