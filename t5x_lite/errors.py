"""The exceptions that the command line tells in one line, and help with saying what is wrong."""

import difflib
import json


class UserError(Exception):
  """A mistake the user can mend: one line that names what is wrong and what to change.

  The command line prints the message without a traceback and exits with status 2.
  """

  status = 2


class HostError(Exception):
  """A host of a job that is missing, or lost: no mistake, and starting all again may help.

  The exit status is EX_TEMPFAIL of sysexits.h, for launchers to tell it from others.
  """

  status = 75


def did_you_mean(name, names):
  """Returns '; did you mean ...?' with those of `names` that are close to `name`, or ''."""
  near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
  return f'; did you mean {" or ".join(near)}?' if near else ''


def shortened(value) -> str:
  """Returns a value as JSON, to be named in an error; of a long one the beginning."""
  text = json.dumps(value, ensure_ascii=False)
  return text if len(text) <= 60 else text[:57] + '...'
