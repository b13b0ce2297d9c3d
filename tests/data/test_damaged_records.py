"""Damaged records: how many may be left out, and that each counts once."""

import pytest

from t5x_lite import choices, errors
from t5x_lite.data import damaged_records, sources


@pytest.fixture(autouse=True)
def _none_yet():
  damaged_records.begin()
  yield
  choices.begin()
  damaged_records.begin()


def test_where_nobody_was_asked_the_first_is_an_error():
  with pytest.raises(errors.UserError, match='^a.jsonl, line 3: not JSON$'):
    damaged_records.leave_out('a.jsonl, line 3', 'not JSON')


def test_each_counts_once_and_one_too_many_is_told_by_the_check(capsys):
  choices.choose(skipped_records=2)
  for place in ('a, line 1', 'b, line 1', 'a, line 1', 'b, line 1'):
    damaged_records.leave_out(place, 'not JSON')
    damaged_records.check()
  assert capsys.readouterr().err.splitlines() == [
    'a, line 1: not JSON; left out, 1 of SKIPPED_RECORDS=2',
    'b, line 1: not JSON; left out, 2 of SKIPPED_RECORDS=2',
  ]
  damaged_records.leave_out('c, line 1', 'empty')
  message = 'c, line 1: empty; damaged records: 3, SKIPPED_RECORDS=2 of which may be left out'
  with pytest.raises(errors.UserError, match=message):
    damaged_records.check()
  assert not capsys.readouterr().err


def test_a_resumed_run_knows_what_was_left_out():
  choices.choose(skipped_records=1)
  damaged_records.leave_out('a, line 1', 'not JSON')
  saved = damaged_records.left_out()
  damaged_records.begin(saved)
  damaged_records.leave_out('a, line 1', 'not JSON')
  damaged_records.check()
  damaged_records.leave_out('a, line 2', 'not JSON')
  with pytest.raises(errors.UserError, match='a, line 2'):
    damaged_records.check()


def test_rows_of_tables_are_left_out_when_they_are_read(tmp_path):
  path = tmp_path / 'rows.csv'
  path.write_text('text,label\na,1\nb\nc,x\nd,4\n')
  source = sources.CsvDataSource({'train': str(path)}, {'text': str, 'label': int})
  choices.choose(skipped_records=1)
  with pytest.raises(errors.UserError, match=r'rows.csv, line 4: .*damaged records: 2'):
    source.get_dataset('train', shuffle=False)
  choices.choose(skipped_records=2)
  rows = [row['text'] for row in source.get_dataset('train', shuffle=False).as_numpy_iterator()]
  assert rows == [b'a', b'd']
