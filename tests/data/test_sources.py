"""Data sources over files as people have them, whole and broken."""

import gzip
import json
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import errors
from t5x_lite.data import records, sources


def _read(source, split='train', **kwargs):
  with sources.readable_errors():
    dataset = source.get_dataset(split, **({'shuffle': False} | kwargs))
    return [{k: _plain(v) for k, v in row.items()} for row in dataset.as_numpy_iterator()]


def _plain(value):
  return value.decode() if isinstance(value, bytes) else np.asarray(value).item()


def _write(path, text, encoding='utf-8'):
  data = text.encode(encoding)
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return str(path)


def _json_lines(*rows):
  return ''.join(json.dumps(row) + '\n' for row in rows)


def test_json_lines_of_all_types_from_globs_and_gzip(tmp_path):
  _write(
    tmp_path / 'a-1.jsonl', _json_lines({'text': 'eins', 'n': 1, 'x': 2, 'ok': True, 'more': []})
  )
  _write(
    tmp_path / 'a-2.jsonl',
    '\n' + _json_lines({'text': 'ä\n"\u2028', 'n': -2, 'x': 0.5, 'ok': False}),
  )
  other = _write(tmp_path / 'b.jsonl.gz', _json_lines({'text': '', 'n': 3, 'x': 1.5, 'ok': True}))
  source = sources.JsonLinesDataSource(
    {'train': [str(tmp_path / 'a-*.jsonl'), other]}, {'text': str, 'n': int, 'x': float, 'ok': bool}
  )
  assert sorted(_read(source), key=lambda row: row['n']) == [
    {'text': 'ä\n"\u2028', 'n': -2, 'x': 0.5, 'ok': False},
    {'text': 'eins', 'n': 1, 'x': 2.0, 'ok': True},
    {'text': '', 'n': 3, 'x': 1.5, 'ok': True},
  ]


@pytest.mark.parametrize(
  'line, complaint',
  [
    ('{"text": ', 'not JSON: Expecting value at column'),
    ('{"txt": "a", "b": 1}', "no field 'text'; the line has 'txt', 'b'"),
    ('{"text": 3}', "field 'text' is 3, but was declared as str"),
    ('{"text": null}', "field 'text' is null"),
    ('["a"]', 'a JSON object is needed'),
    ('{"text": "a", "n": 9223372036854775808}', "field 'n' is 9223372036854775808, but"),
  ],
)
def test_a_bad_json_line_is_named_with_file_and_line(tmp_path, line, complaint):
  path = _write(tmp_path / 'bad.jsonl', _json_lines({'text': 'good', 'n': 1}) + '\n' + line + '\n')
  with pytest.raises(errors.UserError) as caught:
    _read(sources.JsonLinesDataSource({'train': path}, {'text': str, 'n': int}))
  assert str(caught.value).startswith(f'{path}, line 3: ')
  assert complaint in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', [sources.TextLinesDataSource, sources.CsvDataSource])
def test_text_that_is_not_utf8_is_named_with_file_and_line(tmp_path, kind):
  path = _write(tmp_path / 'latin.txt', 'text\nMünchen\n', encoding='latin-1')
  options = {'fields': ['text']} if kind is sources.CsvDataSource else {}
  with pytest.raises(errors.UserError, match=r'latin.txt, line 2: not UTF-8 at byte 2'):
    _read(kind({'train': path}, **options))


def test_plain_text_leaves_out_empty_lines_and_a_byte_order_mark(tmp_path):
  path = _write(tmp_path / 'text.txt.gz', '\ufefferste\r\n  \nzweite')
  assert _read(sources.TextLinesDataSource({'train': path})) == [
    {'text': 'erste'},
    {'text': 'zweite'},
  ]


def test_csv_with_quoted_line_breaks_and_types(tmp_path):
  path = _write(tmp_path / 'a.csv', 'id,text,ok\n1,"two\nlines, ""quoted""",true\n\n2,plain,0\n')
  source = sources.CsvDataSource({'train': path}, {'text': str, 'id': int, 'ok': bool})
  assert _read(source) == [
    {'text': 'two\nlines, "quoted"', 'id': 1, 'ok': True},
    {'text': 'plain', 'id': 2, 'ok': False},
  ]


def test_tsv_without_header_and_with_plain_quotes(tmp_path):
  path = _write(tmp_path / 'a.tsv.gz', '1\t"Quote\n0\tno\n')
  source = sources.TsvDataSource({'dev': path}, ['text'], columns=['label', 'text'], quoted=False)
  assert _read(source, 'dev') == [{'text': '"Quote'}, {'text': 'no'}]


@pytest.mark.parametrize(
  'rows, complaint',
  [
    ('label,txt\n1,a\n', "line 1: no column 'text'; the columns are 'label', 'txt'"),
    ('label,text\n1,"a\nb"\nx,c\n', 'line 4: column \'label\' is "x", but was declared as int'),
    ('label,text\n1,"a\nb"\n2\n', 'line 4: 1 values for 2 columns'),
    ('label,text\n1,"a"b\n', 'line 2: .* pass quoted=False'),
    ('', 'line 1: the file is empty'),
    ('label,text\n', 'no rows in'),
  ],
)
def test_a_bad_row_is_named_with_the_line_it_begins_on(tmp_path, rows, complaint):
  path = _write(tmp_path / 'bad.csv', rows)
  with pytest.raises(errors.UserError, match=complaint):
    _read(sources.CsvDataSource({'train': path}, {'text': str, 'label': int}))


def test_files_that_are_not_there_or_not_gzip_are_named(tmp_path):
  with pytest.raises(errors.UserError, match=r"no file matches '.*none-\*.jsonl'"):
    _read(sources.JsonLinesDataSource({'train': str(tmp_path / 'none-*.jsonl')}, ['text']))
  with pytest.raises(errors.UserError, match="no file matches '/no/such.csv'"):
    _read(sources.CsvDataSource({'train': '/no/such.csv'}, ['text']))
  path = tmp_path / 'plain.jsonl.gz'
  path.write_text('{}')
  with pytest.raises(errors.UserError, match='is named .gz but is not gzip'):
    _read(sources.JsonLinesDataSource({'train': str(path)}, ['text']))


@pytest.mark.parametrize('kind', [sources.JsonLinesDataSource, sources.TsvDataSource])
def test_a_gzip_file_cut_short_is_told(tmp_path, kind):
  text = ''.join(f'{{"text": "{i * 7919 % 10007}"}}\n' for i in range(10000))
  path = tmp_path / 'short.gz'
  path.write_bytes(gzip.compress(text.encode())[:-2000])
  with pytest.raises(errors.UserError, match='damaged or cut short|line 9.*: not JSON'):
    _read(kind({'train': str(path)}, ['text']))


def test_a_type_that_fields_cannot_have_is_refused():
  with pytest.raises(errors.UserError, match='use str, int, float or bool'):
    sources.JsonLinesDataSource({'train': 'x'}, {'text': list})


def _numbers(size):
  return sources.RowsDataSource(lambda split: {'n': np.arange(size)}, ['train'])


def test_rows_are_shuffled_whole_and_anew_in_each_epoch():
  dataset = _numbers(100).get_dataset('train', shuffle=True, seed=1).repeat(2)
  order = [row['n'].item() for row in dataset.as_numpy_iterator()]
  assert sorted(order[:100]) == sorted(order[100:]) == list(range(100))
  assert order[:100] != order[100:]
  assert order[:100] != list(range(100))
  again = _numbers(100).get_dataset('train', shuffle=True, seed=1)
  assert order[:100] == [row['n'].item() for row in again.as_numpy_iterator()]


def test_one_row_can_be_shuffled_too():
  assert _read(_numbers(1), shuffle=True, seed=3) == [{'n': 0}]


@pytest.mark.parametrize('shuffle', [False, True])
def test_hosts_share_out_the_rows(shuffle):
  shards = [
    _read(_numbers(10), shuffle=shuffle, seed=1, shard_info=seqio.ShardInfo(i, 3)) for i in range(3)
  ]
  assert [len(shard) for shard in shards] == [4, 3, 3]
  assert sorted(row['n'] for shard in shards for row in shard) == list(range(10))


@pytest.mark.parametrize('of_files', [False, True])
def test_rows_follow_exactly_any_position_even_one_at_the_end_of_an_epoch(tmp_path, of_files):
  source = sources.RowsDataSource(lambda split: {'n': np.arange(20)}, ['train'])
  if of_files:
    (tmp_path / 'n.jsonl').write_text('{"m": "x"}\n' * 20)
    layout = records.Layout({'n': records.NUMBER, 'm/x': str}, names={'m/x': ('m',)})
    source = records.RecordsDataSource({'train': str(tmp_path / 'n.jsonl')}, layout)

  def begin():
    return iter(source.get_dataset('train', shuffle=True, seed=3).repeat())

  iterator, numbers = begin(), []
  for i in range(60):
    tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / str(i)))
    numbers.append(int(next(iterator)['n']))
  assert sorted(numbers[:20]) == sorted(numbers[20:40]) == list(range(20))
  for i in range(15, 42):
    fresh = begin()
    tf.train.Checkpoint(iterator=fresh).read(str(tmp_path / str(i))).assert_consumed()
    assert [int(next(fresh)['n']) for _ in range(i, 60)] == numbers[i:], i


def test_autograph_rewrites_only_functions_that_need_it():
  files = []

  def plain(x):
    files.append(sys._getframe().f_code.co_filename)
    return 2 * x

  def of_tensors(x):
    files.append(sys._getframe().f_code.co_filename)
    if x > 1:
      x = -x
    for i in tf.range(x, 0):
      x += i
    return x

  def mistaken(x):
    return x + 'a'

  numbers = tf.data.Dataset.range(3)
  doubled = sources.without_autograph(numbers.map, plain)
  assert list(doubled.as_numpy_iterator()) == [0, 2, 4] and files == [__file__]
  summed = sources.without_autograph(numbers.map, of_tensors)
  assert list(summed.as_numpy_iterator()) == [0, 1, -5]
  assert files[1] == __file__ != files[-1]
  with pytest.raises(TypeError):
    sources.without_autograph(numbers.map, mistaken)
