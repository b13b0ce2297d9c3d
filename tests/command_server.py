"""Runs the commands of many scripts in one process, which imports TensorFlow once for all of them.

    python command_server.py SOCKET              serves
    python command_server.py SOCKET ARGUMENT...  has `t5x-lite ARGUMENT...` run where it stands

The environment is that of the server.
"""

import json
import os
import socket
import sys
import traceback


def ask(path, arguments):
  """Has a command run on this process's standard streams; returns its exit status."""
  request = json.dumps({'folder': os.getcwd(), 'arguments': arguments})
  with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    socket.send_fds(connection, [request.encode()], [0, 1, 2])
    return connection.recv(1)[0]


def serve(path):
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    listener.listen()
    print('ready', flush=True)
    nowhere = os.open(os.devnull, os.O_RDWR)
    while True:
      connection, _ = listener.accept()
      with connection:
        request, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
        for number, stream in enumerate(streams):
          os.dup2(stream, number)
          os.close(stream)
        status = run(**json.loads(request))
        for number in range(3):
          os.dup2(nowhere, number)  # Who reads its output sees the end of it.
        connection.sendall(bytes([status]))


def run(folder, arguments):
  from t5x_lite import cli

  os.chdir(folder)
  sys.stdin = open(0, encoding='utf-8', closefd=False)
  try:
    return cli.main(arguments)
  except Exception:
    traceback.print_exc()
    return 1
  finally:
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == '__main__':
  _, address, *words = sys.argv
  sys.exit(ask(address, words) if words else serve(address))
