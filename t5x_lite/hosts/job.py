"""Joins this process to the others of its job, and leaves them.

In a process that is alone all of this does nothing, and costs nothing.
"""

import contextlib
import os
import sys
import time
import traceback

from t5x_lite import errors
from t5x_lite.hosts import clusters, meeting, watch

# After a collective has failed: how long until it is known which host it was.
_SECONDS_TO_LEARN = 5


# Over the other hosts of the job that this process is of; None if it is alone.
_watch: watch.Watch | None = None


def add_arguments(parser):
  """Adds the flags of a job of several hosts."""
  group = parser.add_argument_group(
    'several hosts',
    'found out by itself on TPU slices, and under srun and mpirun; elsewhere give the first three',
  )
  group.add_argument(
    '--coordinator_address', metavar='HOST:PORT', help='where process 0 receives the others'
  )
  group.add_argument('--num_processes', type=int, metavar='N', help='how many there are')
  group.add_argument('--process_id', type=int, metavar='I', help='which one this is, from 0')
  group.add_argument(
    '--host_timeout',
    type=float,
    default=60,
    metavar='SECONDS',
    help='a host that was not heard of for so long counts as dead, and the others end with '
    f'status {errors.HostError.status} (default: 60)',
  )
  group.add_argument(
    '--join_timeout',
    type=float,
    default=300,
    metavar='SECONDS',
    help='how long hosts wait for all to be there, at the start (default: 300)',
  )


def place_of(args) -> clusters.Place | None:
  """Returns the place that flags give, or the environment; None if this process is alone.

  Raises:
    UserError: flags are missing or wrong.
  """
  given = {
    name: getattr(args, name) for name in ('coordinator_address', 'num_processes', 'process_id')
  }
  missing = [f'--{name}' for name, value in given.items() if value is None]
  if len(missing) == 3:
    place = clusters.detect(os.environ)
    if place is not None and place.address is None:
      raise errors.UserError(
        f'this is process {place.index} of {place.count}, but where process 0 receives the others '
        'is not known: give --coordinator_address, --num_processes and --process_id'
      )
    return place
  if missing:
    there = ', '.join(f'--{name}' for name, value in given.items() if value is not None)
    raise errors.UserError(f'{there} needs {" and ".join(missing)}, too')
  place = clusters.Place(*given.values())
  if not 0 <= place.index < place.count:
    raise errors.UserError(
      f'--process_id={place.index} must be from 0 to {place.count - 1}, with '
      f'--num_processes={place.count}'
    )
  return place if place.count > 1 else None


@contextlib.contextmanager
def of(args, saves_on_sigterm: bool):
  """Runs what is inside as one of the hosts, if there are several.

  Args:
    args: the parsed flags.
    saves_on_sigterm: whether jax is to hear SIGTERM, so that all hosts stop at the same step, see
      `training.loop`; otherwise SIGTERM ends a host, and so all of them.

  Raises:
    UserError: flags are wrong, or not the same on all hosts.
    HostError: not all have come.
  """
  for name in ('host_timeout', 'join_timeout'):
    if getattr(args, name) <= 0:
      raise errors.UserError(f'--{name}={getattr(args, name):g} must be positive')
  place = place_of(args)
  if place is None:
    yield
    return
  _join(place, args, saves_on_sigterm)
  try:
    yield
  except (errors.UserError, BrokenPipeError):
    raise
  except Exception as error:
    # A collective also fails because another host has died, and the watch may be about to say so.
    time.sleep(_SECONDS_TO_LEARN)
    traceback.print_exc()
    abandon(1, f'{type(error).__name__}: {error}'.partition('\n')[0])
  _leave()


def _join(place, args, saves_on_sigterm):
  global _watch
  hosts = meeting.meet(place, args.join_timeout)
  _watch = watch.Watch(place.index, hosts, args.host_timeout, watch.end_process)
  _watch.start()
  # Gloo, over which CPUs talk, tells on standard output of its connections, where answers belong.
  sys.stdout.flush()
  sys.stdout = open(os.dup(1), 'w', encoding=sys.stdout.encoding, errors=sys.stdout.errors)
  os.dup2(2, 1)

  import jax

  jax.config.update('jax_enable_preemption_service', saves_on_sigterm)
  jax.distributed.initialize(
    hosts.jax_address,
    place.count,
    place.index,
    None if place.device is None else [place.device],
    cluster_detection_method='deactivate',
    initialization_timeout=round(args.join_timeout) + 1,
    # Only where our own watch should have failed: jax names no machine.
    heartbeat_timeout_seconds=round(2 * args.host_timeout) + 60,
  )


def _leave():
  global _watch
  import jax

  _watch.wait_until_all_are_done()
  jax.distributed.shutdown()
  _watch = None


def abandon(status: int, reason: str) -> int:
  """Returns the exit status after an error, or, as one of several hosts, ends all of them with it.

  jax, asked to end in order, would wait for the others, and they wait for this one.
  """
  if _watch is None:
    return status
  _watch.announce(status, reason)
  with contextlib.suppress(BrokenPipeError):
    sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def agreed(value: int | None) -> int | None:
  """Returns what the first host has. What is read from a disk or drawn may differ elsewhere."""
  if _watch is None:
    return value
  import numpy as np
  from jax.experimental import multihost_utils

  told = multihost_utils.broadcast_one_to_all(np.int32(-1 if value is None else value))
  return None if told < 0 else int(told)
