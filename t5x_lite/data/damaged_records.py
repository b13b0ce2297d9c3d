"""Damaged records of the data: a run leaves out so many, and stops at one more.

A record that is left out is not there for the run, in every epoch and after every restart, so the
batches stay the same. It counts once. Within tf.data even the one too many is left out, and `check`
tells: an error there would be saved with what is read ahead, and raised again after every restart.
"""

import sys
import threading
from collections.abc import Mapping

from t5x_lite import choices, errors

_lock = threading.Lock()
_left_out: dict[str, str] = {}  # What is wrong, by place.


def begin(left_out: Mapping[str, str] | None = None):
  """Starts to count.

  Args:
    left_out: what `left_out` returned in an earlier process of the run.

  Raises:
    UserError: the number that may be left out is none.
  """
  allowed = choices.current().skipped_records
  if allowed is not None and allowed < 0:
    raise errors.UserError(f'SKIPPED_RECORDS={allowed} must be at least 0')
  with _lock:
    _left_out.clear()
    _left_out.update(left_out or {})


def left_out() -> dict[str, str]:
  """Returns what was wrong with all records that were left out, by their places."""
  with _lock:
    return dict(_left_out)


def leave_out(place: str, what: str):
  """Notes that a record is left out.

  Args:
    place: file and line, or file and byte.
    what: what is wrong with it.

  Raises:
    UserError: nobody was asked whether records may be left out.
  """
  allowed = choices.current().skipped_records
  if allowed is None:
    raise errors.UserError(f'{place}: {what}')
  with _lock:
    is_new = place not in _left_out
    _left_out[place] = what
    count = len(_left_out)
  if is_new and count <= allowed:
    print(f'{place}: {what}; left out, {count} of SKIPPED_RECORDS={allowed}', file=sys.stderr)


def check():
  """Raises a UserError if more were left out than may be."""
  allowed = choices.current().skipped_records
  with _lock:
    count = len(_left_out)
    place, what = next(reversed(_left_out.items()), (None, None))
  if allowed is not None and count > allowed:
    raise errors.UserError(
      f'{place}: {what}; damaged records: {count}, SKIPPED_RECORDS={allowed} of which may be left out'
    )
