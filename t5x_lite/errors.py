"""The one exception that stands for a user's mistake."""


class UserError(Exception):
  """A mistake the user can mend: one line that names what is wrong and what to change.

  The command line prints the message without a traceback and exits with status 2.
  """
