"""Tables, comma- or tab-separated, read whole."""

import csv
import gzip
from collections.abc import Iterable, Iterator

import tensorflow as tf

from t5x_lite import errors
from t5x_lite.data import damaged_records

# Python's limit of 128 KiB a value is less than a long document.
csv.field_size_limit(2**31 - 1)


def rows(
  lines: Iterable[str], file: str, *, delimiter: str, quoted: bool
) -> Iterator[tuple[int, list[str]]]:
  """Yields the rows of a table that are not empty, and the line on which each begins."""
  reader = csv.reader(
    lines,
    delimiter=delimiter,
    quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    strict=True,
  )
  begins = 1
  try:
    for row in reader:
      if row:
        yield begins, row
      begins = reader.line_num + 1
  except csv.Error as error:
    hint = '; if quotes are plain characters in this file, pass quoted=False' if quoted else ''
    raise errors.UserError(f'{file}, line {begins}: {error}{hint}') from None


def text_lines(file: str) -> Iterator[str]:
  """Yields the lines of a file, gzipped or not, with their ends."""
  with tf.io.gfile.GFile(file, 'rb') as raw:
    data = raw.read()
  try:
    data = gzip.decompress(data) if file.endswith('.gz') else data
  except (EOFError, OSError) as error:
    raise errors.UserError(f'{file} is damaged or cut short: {error}') from None
  for number, line in enumerate(data.splitlines(keepends=True), start=1):
    try:
      yield line.decode('utf-8-sig' if number == 1 else 'utf-8')
    except UnicodeDecodeError as error:
      raise errors.UserError(
        f'{file}, line {number}: not UTF-8 at byte {error.start + 1} of the line'
      ) from None


def read(file, fields, *, columns, delimiter, quoted):
  """Rows of the wanted values; a mistake names the line on which its row begins."""
  numbered_rows = rows(text_lines(file), file, delimiter=delimiter, quoted=quoted)
  if columns is None:
    _, columns = next(numbered_rows, (1, None))
    if columns is None:
      raise errors.UserError(
        f'{file}, line 1: the file is empty, its first line should name the columns'
      )
  missing = [name for name in fields if name not in columns]
  if missing:
    raise errors.UserError(
      f'{file}, line 1: no column {missing[0]!r}; the columns are {", ".join(map(repr, columns))}'
    )
  positions = [columns.index(name) for name in fields]
  values = []
  for line, row in numbered_rows:
    try:
      if len(row) != len(columns):
        raise errors.UserError(f'{len(row)} values for {len(columns)} columns')
      values.append(
        [
          _table_value(row[position], name, kind)
          for position, (name, kind) in zip(positions, fields.items(), strict=True)
        ]
      )
    except errors.UserError as error:
      damaged_records.leave_out(f'{file}, line {line}', str(error))
  damaged_records.check()
  return values


def _table_value(text, name, kind):
  if kind is str:
    return text
  if kind is bool and text.lower() in ('true', 'false', '1', '0'):
    return text.lower() in ('true', '1')
  try:
    if kind is float or (kind is int and fits_int64(int(text))):
      return kind(text)
  except ValueError:
    pass
  raise errors.UserError(
    f'column {name!r} is {errors.shortened(text)}, but was declared as {kind.__name__}'
  )


def fits_int64(value) -> bool:
  """Whether TensorFlow's largest integers have room for one."""
  return -(2**63) <= value < 2**63
