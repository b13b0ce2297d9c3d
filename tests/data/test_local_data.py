"""Data sets of TFDS read from the files that people have of them."""

import functools
import json
import pathlib

import pytest

from t5x_lite import choices, errors
from t5x_lite.data import local_data, records

LABELS = ('bad', 'good')
LAYOUT = records.Layout(
  fields={'sentence': str, 'label': LABELS, 'idx': records.NUMBER},
  names={'label': ('gold',), 'idx': ('index',)},
  headerless=('source', 'label', 'mark', 'sentence'),
)


@pytest.fixture(autouse=True)
def none_chosen():
  yield
  choices.begin()


def make_source(splits=('train', 'validation', 'test'), layout=LAYOUT, **options):
  return local_data.LocalOrTfdsDataSource(
    'glue/cola:2.0.0',
    splits,
    functools.partial(records.RecordsDataSource, layout=layout),
    **options,
  )


def examples(source, split):
  rows = list(source.get_dataset(split, shuffle=False).as_numpy_iterator())
  return [{k: v.decode() if isinstance(v, bytes) else v for k, v in row.items()} for row in rows]


def write(folder, **contents):
  """Writes files; a name's `__` is its dot."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in contents.items():
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name.replace('__', '.')).write_bytes(data)
  return folder


def read(tmp_path, split='train', layout=LAYOUT, **contents):
  write(tmp_path / 'glue' / 'cola', **contents)
  choices.begin(local_data=(str(tmp_path),))
  return examples(make_source(layout=layout), split)


RIGHT = [
  {'sentence': 'One "odd quote.', 'label': 1, 'idx': 0},
  {'sentence': 'Two.', 'label': 0, 'idx': 1},
]


@pytest.mark.parametrize(
  'name, content',
  {
    'train__tsv': 'sentence\tlabel\nOne "odd quote.\t1\nTwo.\t0\n',
    'my-train__tsv': 'gold\tsentence\ngood\tOne "odd quote.\nbad\tTwo.\n',
    'train__csv': 'label,sentence\ngood,"One ""odd quote."\nbad,Two.\n',
    'train__jsonl': '{"sentence": "One \\"odd quote.", "label": "good"}\n'
    '\n{"sentence": "Two.", "label": 0}\n',
    'train__json': json.dumps(
      [{'sentence': 'One "odd quote.', 'label': 1}, {'sentence': 'Two.', 'label': 'bad'}], indent=1
    ),
    'in_domain_train__tsv': 'x1\t1\t\tOne "odd quote.\nx2\t0\t*\tTwo.\n',
  }.items(),
)
def test_a_file_may_have_any_layout(tmp_path, name, content):
  assert read(tmp_path, **{name: content}) == RIGHT


def test_quotes_around_values_are_told_from_quotes_in_texts(tmp_path):
  rows = read(tmp_path, train__tsv='label\tsentence\n1\t"One ""odd quote."\n0\tTwo.\n')
  # The quotes are those of spreadsheets, as the doubled one tells.
  assert rows[0]['sentence'] == 'One "odd quote.'
  rows = read(tmp_path / 'other', train__tsv='label\tsentence\n1\t"All of it."\n0\tTwo.\n')
  assert rows[0]['sentence'] == '"All of it."'


def test_the_labels_of_a_test_set_may_be_missing(tmp_path):
  content = 'index\tsentence\n5\tOne.\n'
  assert read(tmp_path, 'test', test__tsv=content) == [{'sentence': 'One.', 'label': -1, 'idx': 5}]
  with pytest.raises(errors.UserError, match="line 2: no field 'label' or 'gold'; there are 'ind"):
    read(tmp_path, train__tsv=content)


@pytest.mark.parametrize(
  'content, message',
  [
    ('', 'line 1: the file is empty'),
    ('sentence\tlabel\n', 'no examples in'),
    ('sentence,label\nOne.,1\n', 'line 1: the columns are separated by commas'),
    ('text\tlabel\nOne.\t1\n', "line 2: no field 'sentence'; there are 'text', 'label'"),
    (
      'sentence\tlabel\nOne.\t1\nTwo.\tfine\n',
      """line 3: 'label' is "fine", which is none of the""",
    ),
    ('sentence\tlabel\nOne.\t2\n', 'line 2: \'label\' is "2", which is none of'),
    ('sentence\tlabel\nOne.\n', 'line 2: 1 values for 2 columns'),
    (b'sentence\tlabel\nOne.\t1\ncaf\xe9\t1\n', 'line 3: not UTF-8 at byte 4'),
  ],
)
def test_a_wrong_table_is_named_with_file_and_line(tmp_path, content, message):
  with pytest.raises(errors.UserError) as error:
    read(tmp_path, train__tsv=content)
  assert f'{tmp_path}/glue/cola/train.tsv' in str(error.value)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'content, message',
  [
    ('{"sentence": "One.", "label": 1}\n{"sentence": "Two."\n', 'line 2: not JSON'),
    ('[\n {"sentence": "One.",\n "label": }]\n', 'line 3: not JSON'),
    ('{"sentence": "One.", "label": 1}\n["Two."]\n', 'line 2: a JSON object is needed'),
    ('{"sentence": 1, "label": 1}\n', "line 1: field 'sentence' is 1, but should be str"),
    ('{"sentence": "One.", "label": true}\n', "line 1: 'label' is true"),
  ],
)
def test_a_wrong_json_file_is_named_with_file_and_line(tmp_path, content, message):
  with pytest.raises(errors.UserError) as error:
    read(tmp_path, train__jsonl=content)
  assert f'{tmp_path}/glue/cola/train.jsonl, ' in str(error.value)
  assert message in str(error.value)


def test_broken_rows_are_left_out_where_a_set_is_known_to_have_them(tmp_path, capsys):
  import dataclasses

  layout = dataclasses.replace(LAYOUT, leave_out_broken=True)
  content = 'sentence\tlabel\nOne.\t1\nbroken\nTwo.\t0\n'
  rows = read(tmp_path, layout=layout, train__tsv=content)
  assert [row['sentence'] for row in rows] == ['One.', 'Two.']
  assert '1 rows have not 2 values, the first on line 3' in capsys.readouterr().err


def test_folders_are_found_by_tfds_names_and_by_those_of_the_original_downloads(tmp_path):
  table = 'sentence\tlabel\nOne.\t1\n'
  for folder, root in (
    ('glue_data/CoLA', 'glue_data'),
    ('other/GLUE/cola', 'other'),
    ('deep/glue-data/Co-LA', 'deep'),
  ):
    write(tmp_path / folder, train__tsv=table, dev__tsv=table)
    choices.begin(local_data=(str(tmp_path / root),))
    source = make_source()
    assert set(source.splits) == {'train', 'validation'}
    assert examples(source, 'validation')[0]['sentence'] == 'One.'


def test_a_data_set_and_a_split_may_be_given_by_name(tmp_path):
  folder = write(
    tmp_path / 'x', a__tsv='sentence\tlabel\nA.\t1\n', b__tsv='sentence\tlabel\nB.\t1\n'
  )
  choices.begin(
    local_data=(f'glue/cola/train={folder}/*.tsv', f'glue/cola/validation={folder}/b.tsv')
  )
  source = make_source()
  assert [row['sentence'] for row in examples(source, 'train')] == ['A.', 'B.']
  assert [row['sentence'] for row in examples(source, 'validation')] == ['B.']
  write(tmp_path / 'y', train__tsv='sentence\tlabel\nY.\t1\n')
  choices.begin(local_data=(f'glue/cola={tmp_path}/y',))
  assert [row['sentence'] for row in examples(make_source(), 'train')] == ['Y.']


@pytest.mark.parametrize(
  'entry, message',
  [
    ('{}/none', 'is no folder'),
    ('glue/cole={}', "no task reads a data set 'glue/cole'; did you mean glue/cola"),
    ('glue/cola/train={}/none.tsv', 'no file matches'),
    ('glue/cola={}/empty', 'has no file for a split of glue/cola (train, validation, test)'),
    ('glue/cola={}/two', 'several files for split'),
  ],
)
def test_an_entry_that_leads_nowhere_is_named(tmp_path, entry, message):
  write(tmp_path / 'empty')
  write(tmp_path / 'two', train__tsv='', train__jsonl='')
  choices.begin(local_data=(entry.format(tmp_path),))
  with pytest.raises(errors.UserError) as error:
    examples(make_source(), 'train')
  assert message in str(error.value)


def test_without_files_and_without_tfds_the_error_says_how_to_get_either(tmp_path, monkeypatch):
  monkeypatch.setattr('tensorflow_datasets.core.constants.DATA_DIR', str(tmp_path / 'tfds'))
  choices.begin(local_data=(str(write(tmp_path / 'data')),))
  with pytest.raises(errors.UserError) as error:
    examples(make_source(), 'train')
  for part in (
    '`tfds build glue/cola:2.0.0`',
    'TFDS_DATA_DIR',
    '--local_data=glue/cola=',
    'data has',
  ):
    assert part in str(error.value)


def test_the_environment_names_folders_too(tmp_path, monkeypatch):
  write(tmp_path / 'glue' / 'cola', train__tsv='sentence\tlabel\nOne.\t1\n')
  monkeypatch.setenv('T5X_LITE_LOCAL_DATA', str(tmp_path))
  choices.begin()
  assert examples(make_source(), 'train')[0]['sentence'] == 'One.'


def test_a_set_of_one_split_needs_no_split_in_the_name_of_its_file(tmp_path):
  write(tmp_path / 'glue' / 'cola', diagnostic__tsv='index\tsentence\n0\tOne.\n')
  choices.begin(local_data=(str(tmp_path),))
  assert examples(make_source(splits=('test',)), 'test')[0]['sentence'] == 'One.'


def test_shards_are_one_split(tmp_path):
  lines = [json.dumps({'sentence': f'{i}.', 'label': 1}) for i in range(3)]
  files = {f'c4-train__0000{i}-of-00003__jsonl': line for i, line in enumerate(lines)}
  assert [row['idx'] for row in read(tmp_path, **files)] == [0, 1, 2]
  assert pathlib.Path(tmp_path / 'glue/cola').is_dir()
