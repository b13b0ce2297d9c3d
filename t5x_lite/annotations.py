"""Whether a value that a user gives fits the annotation of the parameter that takes it."""

import inspect
import re
import types
import typing
from collections import abc

# A string is a sequence of strings, but never the one that was meant.
_NOT_FOR_STRINGS = (abc.Sequence, abc.Iterable, abc.Collection)


def accept(annotation, value) -> bool:
  """Whether a value fits; judged are plain types, their unions, Literal, and names of classes.

  Args:
    annotation: as `inspect` finds it. A string names classes, joined by `|`, whose modules are not
      to be imported for the sake of it.
    value: any object.
  """
  if annotation is inspect.Parameter.empty or annotation is typing.Any:
    return True
  if isinstance(annotation, str):
    names = {kind.strip() for kind in annotation.split('|')}
    return (value is None and 'None' in names) or any(
      kind.__name__ in names for kind in type(value).__mro__
    )
  origin = typing.get_origin(annotation)
  if origin in (typing.Union, types.UnionType):
    return any(accept(choice, value) for choice in typing.get_args(annotation))
  if origin is typing.Literal:
    return value in typing.get_args(annotation)
  kind = origin or annotation
  if not isinstance(kind, type) or getattr(kind, '_is_protocol', False):
    return True
  if kind in (int, float) and isinstance(value, bool):
    return False
  if kind is float:
    return isinstance(value, (int, float))
  if isinstance(value, str) and kind in _NOT_FOR_STRINGS:
    return False
  return isinstance(value, kind)


def name(annotation) -> str:
  """The annotation in a message."""
  text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
  return re.sub(r'\b(typing|collections\.abc)\.', '', text)
