"""What fits an annotation."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence

import pytest

from t5x_lite import annotations


class Shape:
  pass


class Square(Shape):
  pass


@pytest.mark.parametrize(
  ('annotation', 'fits', 'does_not'),
  [
    (inspect.Parameter.empty, [1, 'x', len], []),
    (int, [1], [True, 1.0, '1', len]),
    (float, [1, 1.5], [True, '1', len]),
    (int | None, [1, None], ['1', 1.5]),
    (str | int, ['latest', 3], [None, 1.5]),
    (typing.Literal['a', 'b'], ['a'], ['c', 1]),
    (Sequence[str], [['a'], ()], ['abc', 1]),
    (Mapping[str, int], [{'a': 1}], ['a', [1]]),
    (Callable | float, [len, 0.5, Shape], ['x', None]),
    ('Shape', [Shape(), Square()], [Shape, None, 'Shape', 1]),
    ('Shape | None', [Shape(), None], [Shape, 1]),
  ],
)
def test_values_fit_or_do_not(annotation, fits, does_not):
  for value in fits:
    assert annotations.accept(annotation, value), value
  for value in does_not:
    assert not annotations.accept(annotation, value), value


def test_annotations_are_named_without_their_modules():
  assert annotations.name(int) == 'int'
  assert annotations.name(Mapping[str, int] | None) == 'Mapping[str, int] | None'
  assert annotations.name('Shape | None') == 'Shape | None'
