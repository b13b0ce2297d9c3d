"""A model that is asked at a terminal, with options that change in between."""

import ast
import dataclasses
import shlex
import sys

from t5x_lite import annotations, api, errors
from t5x_lite.decoding import options

HELP = """\
A line is answered. One that begins with / changes how:
  /num_beams=4 num_answers=2   sets options, see /options
  /options                     shows them all
  /reset                       puts them back to what they were at the start
  /help                        shows this
  /quit                        ends, as Ctrl-D does"""


def converse(model: api.Model, decoding: options.DecodingConfig):
  """Answers lines of standard input until it ends.

  Args:
    model: what answers.
    decoding: the options at the start.
  """
  if sys.stdin.isatty():
    import readline  # noqa: F401 - lets `input` edit lines and remember them.

    print(HELP)
  current, count = decoding, 0
  while True:
    try:
      line = input('> ' if sys.stdin.isatty() else '').strip()
    except EOFError:
      return
    try:
      if line == '/quit':
        return
      if line == '/reset':
        current = decoding
      elif line == '/options':
        print(_listed(current))
      elif line == '/help':
        print(HELP)
      elif line.startswith('/'):
        current = _changed(current, line[1:])
      elif line:
        # Numbered, so that what is asked again is drawn anew.
        [answer] = model.predict([line], numbers=[count], **_fields(current))
        count += 1
        print(_told(answer))
    except errors.UserError as error:
      print(f'error: {error}')


def _fields(decoding):
  return {field.name: getattr(decoding, field.name) for field in dataclasses.fields(decoding)}


def _listed(decoding):
  return '\n'.join(f'{name}={value!r}' for name, value in _fields(decoding).items())


def _changed(decoding, text):
  """Sets options, 'NAME=VALUE NAME=VALUE'."""
  fields = _fields(decoding)
  kinds = {field.name: field.type for field in dataclasses.fields(decoding)}
  try:
    pairs = [each.partition('=') for each in shlex.split(text)]
  except ValueError as error:  # A quotation mark without its other.
    raise errors.UserError(f'/{text}: {error}') from None
  for name, equals, value in pairs:
    if name not in fields or name == 'transforms' or not equals:
      near = errors.did_you_mean(name, [*fields, 'options', 'reset', 'help', 'quit'])
      raise errors.UserError(f'/{text} is none of the options as NAME=VALUE{near} (see /help)')
    try:
      fields[name] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      fields[name] = value  # A plain text.
    if not annotations.accept(kinds[name], fields[name]):
      raise errors.UserError(f'/{name}={value}: {annotations.name(kinds[name])} is wanted')
  return options.DecodingConfig(**fields)


def _told(answer):
  if 'error' in answer:
    return f'error: {answer["error"]}'
  found = answer.get('answers', [answer])
  return '\n'.join(f'{each["prediction"]}  ({each["score"]:.3f})' for each in found)
