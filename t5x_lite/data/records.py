r"""Files in the layouts in which people hold data sets, read as TensorFlow Datasets has these sets.

A record is a row of a table (.tsv, .csv), an object of JSON lines (.jsonl, .json), or a JSON document that holds
many examples, such as SQuAD's. `RecordsDataSource` makes examples of them:

    RecordsDataSource(
        {'train': ['CoLA/train.tsv']},
        Layout(
            fields={'sentence': str, 'label': ('unacceptable', 'acceptable'), 'idx': NUMBER},
            headerless=('source', 'label', 'mark', 'sentence')))

What is wrong is told with the file and line.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from t5x_lite import errors
from t5x_lite.data import damaged_records, sources, tables

# Kind of a field that is the record's place in its split, from 0, where the record itself does not say.
NUMBER = 'number'
NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Layout:
  """What to take from records.

  Attributes:
    fields: name -> str, int, float, [str] (a list of texts), NUMBER, or the texts of the labels by class id. A label
      may be written as its text, its id, or true and false. A name with a slash is a part of a dict.
    names: other names that a field may have in a file, by its name.
    headerless: names of the columns of tables that do not name them in their first line.
    expand: function of a record, where that is not an example itself: yields dicts of fields.
    unlabelled_splits: splits in which labels, numbers and lists of texts may be missing: -1 or empty then.
    leave_out_broken: whether table rows with too few or too many values are left out, with a warning.
  """

  fields: Mapping[str, Any]
  names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  headerless: Sequence[str] = ()
  expand: Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]] | None = None
  unlabelled_splits: Sequence[str] = ('test', 'test_matched', 'test_mismatched')
  leave_out_broken: bool = False


class RecordsDataSource(sources.RowsDataSource):
  """Examples of tables and JSON files, held in memory."""

  def __init__(self, split_to_filepattern: Mapping[str, sources.FilePatterns], layout: Layout):
    """Names the files and what to take from them.

    Args:
      split_to_filepattern: split name -> a path or glob, or several.
      layout: what their records are.
    """

    def read(split):
      columns = {name: [] for name in layout.fields}
      files = sources.matching_files(split_to_filepattern[split])
      for file in files:
        for example in _examples(file, layout, split, first=len(next(iter(columns.values())))):
          for name, value in example.items():
            columns[name].append(value)
      if not any(columns.values()):
        raise errors.UserError(f'no examples in {", ".join(files)}')
      return {name: _column(values, layout.fields[name]) for name, values in columns.items()}

    super().__init__(read, split_to_filepattern)

  def _example(self, row):
    return _nested(row)


def _column(values, kind):
  if kind is str:
    return np.array(values, dtype=object)
  if kind == [str]:
    return tf.ragged.constant(values, ragged_rank=1, dtype=tf.string)
  return np.array(values, dtype=np.float32 if kind is float else np.int64)


def _nested(example):
  """{'answers/text': x} as {'answers': {'text': x}}, as TFDS has it."""
  result = {}
  for name, value in example.items():
    *outer, last = name.split('/')
    inner = result
    for each in outer:
      inner = inner.setdefault(each, {})
    inner[last] = value
  return result


def _examples(file, layout, split, first):
  """Checked examples of one file; `first` is the number of the first of them."""
  if file.removesuffix('.gz').endswith(('.tsv', '.csv', '.txt')):
    numbered_records = _table_records(file, layout)
  else:
    numbered_records = _json_records(file)
  number = first
  for line, record in numbered_records:
    try:
      for example in _expanded(record, layout.expand):
        yield {
          name: _value(example, name, kind, layout, number, split)
          for name, kind in layout.fields.items()
        }
        number += 1
    except errors.UserError as error:
      damaged_records.leave_out(f'{file}, line {line}', str(error))
  damaged_records.check()


def _expanded(record, expand):
  """The examples of a record; what is not nested as it should be is a UserError."""
  try:
    return [record] if expand is None else list(expand(record))
  except KeyError as error:
    raise errors.UserError(f'no field {error} where this data set has one') from None
  except (AttributeError, TypeError) as error:
    raise errors.UserError(f'this is not nested as this data set is: {error}') from None


def _value(example, name, kind, layout, number, split):
  """The field of an example, checked and converted."""
  names = (name, *layout.names.get(name, ()))
  found = [each for each in names if each in example]
  if not found:
    is_label = isinstance(kind, tuple) or kind in (float, [str])
    if kind == NUMBER:
      return number
    if is_label and split in layout.unlabelled_splits:
      return [] if kind == [str] else NO_LABEL
    raise errors.UserError(
      f'no field {" or ".join(map(repr, names))}; there are {", ".join(map(repr, example))}'
    )
  value = example[found[0]]
  if isinstance(kind, tuple):
    return _class_id(value, found[0], kind)
  if kind == [str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
      raise errors.UserError(
        f'field {found[0]!r} is {errors.shortened(value)}, but should be texts'
      )
    return texts
  wanted = int if kind == NUMBER else kind
  if wanted is str and isinstance(value, str):
    return value
  try:
    if wanted is not str and not isinstance(value, bool):
      return wanted(value)
  except (TypeError, ValueError):
    pass
  raise errors.UserError(
    f'field {found[0]!r} is {errors.shortened(value)}, but should be {wanted.__name__}'
  )


def _class_id(value, name, labels):
  # As SuperGLUE's labels are called.
  text = str(value).capitalize() if value in (True, False, 'true', 'false') else str(value)
  if text in labels:
    return labels.index(text)
  if not isinstance(value, bool) and str(value) in map(str, range(NO_LABEL, len(labels))):
    return int(value)
  raise errors.UserError(
    f'{name!r} is {errors.shortened(value)}, which is none of the labels '
    f'{", ".join(map(repr, labels))} or their numbers, 0 to {len(labels) - 1}'
  )


# --- Records of files, with the line on which each begins ---


def _json_records(file):
  """Objects of JSON lines; or of one document, which is an object or a list of them."""
  lines = list(tables.text_lines(file))
  filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
  if not filled:
    raise errors.UserError(f'{file}, line 1: the file is empty')
  try:
    json.loads(filled[0][1])
  except json.JSONDecodeError:  # The document has more lines than one.
    filled = [(1, ''.join(lines))]
  for number, text in filled:
    try:
      value = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
      place = f'{file}, line {number + error.lineno - 1}'
      damaged_records.leave_out(place, f'not JSON: {error.msg} at column {error.colno}')
      continue
    for record in value if isinstance(value, list) and len(filled) == 1 else [value]:
      if not isinstance(record, dict):
        what = f'a JSON object is needed, this is {errors.shortened(record)}'
        damaged_records.leave_out(f'{file}, line {number}', what)
        continue
      yield number, record


def _table_records(file, layout):
  """Rows of a table as dicts of texts by column."""
  delimiter = ',' if file.removesuffix('.gz').endswith('.csv') else '\t'
  lines = list(tables.text_lines(file))
  if not ''.join(lines).strip():
    raise errors.UserError(f'{file}, line 1: the file is empty')
  if delimiter == ',' and '\t' in lines[0]:
    delimiter = '\t'  # As that of the STS benchmark.
  rows = tables.rows(
    lines, file, delimiter=delimiter, quoted=delimiter == ',' or _is_quoted(lines, delimiter)
  )
  line, first = next(rows)
  known = {*layout.fields, *(name for names in layout.names.values() for name in names)}
  _check_delimiter(file, first, known)
  if layout.headerless and not known & set(first):
    columns = layout.headerless
    rows = itertools.chain([(line, first)], rows)
  else:
    columns = first
  broken = []
  for line, row in rows:
    # Columns without a name, at the end of some lines, are nobody's.
    if len(row) < len(columns) or (len(row) > len(columns) and columns is first):
      if not layout.leave_out_broken:
        raise errors.UserError(f'{file}, line {line}: {len(row)} values for {len(columns)} columns')
      broken.append(line)
    else:
      yield line, dict(zip(columns, row, strict=False))
  if broken:
    print(
      f'warning: {file}: {len(broken)} rows have not {len(columns)} values, the first on line '
      f'{broken[0]}, and are left out',
      file=sys.stderr,
    )


def _check_delimiter(file, columns, known):
  other = {',': 'commas', ';': 'semicolons', '\t': 'tabs', '|': 'bars'}
  for sign, name in other.items():
    if len(columns) == 1 and known & set(columns[0].split(sign)):
      raise errors.UserError(
        f'{file}, line 1: the columns are separated by {name}: a .tsv has tabs, a .csv commas'
      )


def _is_quoted(lines, delimiter):
  """Whether values stand in double quotes where they need to, as spreadsheets write them.

  GLUE's own files do not, and their texts hold quotes that are not even paired.
  """
  needed = False
  for line in lines:
    for value in line.rstrip('\r\n').split(delimiter) if '"' in line else ():
      if '"' in value:
        inner = value[1:-1]
        if len(value) < 2 or value[0] + value[-1] != '""' or '"' in inner.replace('""', ''):
          return False
        needed = needed or '""' in inner
  return needed
