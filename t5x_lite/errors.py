"""The one exception that stands for a user's mistake, and the help with a misspelt name."""

import difflib


class UserError(Exception):
  """A mistake the user can mend: one line that names what is wrong and what to change.

  The command line prints the message without a traceback and exits with status 2.
  """


def did_you_mean(name, names):
  """Returns '; did you mean ...?' with those of `names` that are close to `name`, or ''."""
  near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
  return f'; did you mean {" or ".join(near)}?' if near else ''
