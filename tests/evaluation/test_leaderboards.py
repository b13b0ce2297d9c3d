"""Scores and submissions of GLUE and SuperGLUE."""

import importlib
import json
import math
import os
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from t5x_lite import errors
from t5x_lite.evaluation import leaderboards

# BERT-Large on the leaderboards, which give 80.5 and 69.0 (github.com/alexa/bort, README).
BERT_ON_GLUE = {
  'glue_cola_v002': {'matthews_corrcoef': 60.5, 'invalid_predictions': 1.0, 'loss': 0.2},
  'glue_sst2_v002': {'accuracy': 94.9},
  'glue_mrpc_v002': {'f1': 89.3, 'accuracy': 85.4},
  'glue_stsb_v002': {'pearson_corrcoef': 87.6, 'spearman_corrcoef': 86.5},
  'glue_qqp_v002': {'f1': 72.1, 'accuracy': 89.3},
  'glue_mnli_matched_v002': {'accuracy': 86.7},
  'glue_mnli_mismatched_v002': {'accuracy': 85.9},
  'glue_qnli_v002': {'accuracy': 92.7},
  'glue_rte_v002': {'accuracy': 70.1},
  'glue_wnli_v002': {'accuracy': 65.1},
}
BERT_ON_SUPER_GLUE = {
  'super_glue_boolq_v102': {'accuracy': 77.4},
  'super_glue_cb_v102': {'mean_3class_f1': 75.7, 'accuracy': 83.6},
  'super_glue_copa_v102': {'accuracy': 70.6},
  'super_glue_multirc_v102': {'f1': 70.0, 'exact_match': 24.1},
  'super_glue_record_v102': {'em': 71.3, 'f1': 72.0},
  'super_glue_rte_v102': {'accuracy': 71.7},
  'super_glue_wic_v102': {'accuracy': 69.6},
  'super_glue_wsc_v102_simple_eval': {'accuracy': 64.4},
}


def with_sentinel(name):
  """As seqio.experimental.add_task_with_sentinels names it."""
  before, evaluated, after = name.partition('_eval')
  return f'{before}_1_sentinel{evaluated}{after}'


def predicted(*values, first=0):
  """Predictions of examples that are numbered from `first`."""
  return [({'idx': np.int32(first + i)}, value) for i, value in enumerate(values)]


def indexed(value, **index):
  return {f'idx/{name}': np.int32(number) for name, number in index.items()}, value


# --- Scores ---


def test_averages_are_those_that_the_leaderboards_give():
  assert leaderboards.scores(BERT_ON_GLUE | BERT_ON_SUPER_GLUE) == {
    # (60.5 + 94.9 + 87.35 + 87.05 + 80.7 + 86.3 + 92.7 + 70.1 + 65.1) / 9
    'glue': {'score': pytest.approx(724.7 / 9), 'num_tasks': 9},
    # (77.4 + 79.65 + 70.6 + 47.05 + 71.65 + 71.7 + 69.6 + 64.4) / 8
    'super_glue': {'score': pytest.approx(552.05 / 8), 'num_tasks': 8},
  }


def test_diagnostic_sets_and_other_tasks_do_not_count():
  others = {
    'glue_ax_v002': {'accuracy': 0.0},
    'super_glue_axb_v102': {'accuracy': 0.0},
    'super_glue_axg_v102': {'accuracy': 0.0},
    'glue_mnli_v002': {'accuracy': 0.0},
    'squad_v010_allanswers': {'em': 0.0, 'f1': 0.0},
  }
  bert = BERT_ON_GLUE | BERT_ON_SUPER_GLUE
  assert leaderboards.scores(bert | others) == leaderboards.scores(bert)


def test_a_partial_benchmark_has_the_average_of_the_tasks_that_are_there():
  results = {name: BERT_ON_GLUE[name] for name in ('glue_cola_v002', 'glue_mrpc_v002')}
  assert leaderboards.scores(results) == {
    'glue': {'score': pytest.approx((60.5 + 87.35) / 2), 'num_tasks': 2}
  }


@pytest.mark.parametrize(
  'names',
  [
    (),
    ('glue_cola_v002',),
    ('glue_mnli_matched_v002', 'glue_mnli_mismatched_v002'),
    ('glue_cola_v002', 'super_glue_cb_v102'),
  ],
)
def test_a_benchmark_of_less_than_two_tasks_has_no_average(names):
  bert = BERT_ON_GLUE | BERT_ON_SUPER_GLUE
  assert leaderboards.scores({name: bert[name] for name in names}) == {}


def test_one_half_of_mnli_counts_as_mnli():
  results = {'glue_mnli_matched_v002': {'accuracy': 80.0}, 'glue_rte_v002': {'accuracy': 60.0}}
  assert leaderboards.scores(results) == {'glue': {'score': 70.0, 'num_tasks': 2}}


def test_a_task_without_all_of_its_metrics_does_not_count():
  results = {
    'glue_mrpc_v002': {'f1': 90.0},
    'glue_sst2_v002': {'loss': 0.1},
    'glue_rte_v002': {'accuracy': 60.0},
    'glue_qnli_v002': {'accuracy': 80.0},
  }
  assert leaderboards.scores(results) == {'glue': {'score': 70.0, 'num_tasks': 2}}


def test_variants_with_a_sentinel_count_as_their_tasks():
  results = {with_sentinel(name): metrics for name, metrics in BERT_ON_SUPER_GLUE.items()}
  assert 'super_glue_wsc_v102_simple_1_sentinel_eval' in results
  assert 'super_glue_cb_v102_1_sentinel' in results
  assert leaderboards.scores(results) == leaderboards.scores(BERT_ON_SUPER_GLUE)


def test_of_two_variants_of_a_task_the_first_counts():
  results = {
    'glue_wnli_v002_simple_eval': {'accuracy': 90.0},
    'glue_wnli_v002': {'accuracy': 10.0},
    'glue_rte_v002': {'accuracy': 60.0},
  }
  assert leaderboards.scores(results) == {'glue': {'score': 75.0, 'num_tasks': 2}}


# --- Files ---

FILES = {
  # The three test examples of each are given in another order.
  'glue_cola_v002': ([1, 0, 1], 'CoLA.tsv', ['1', '0', '1']),
  'glue_sst2_v002': ([0, 1, 1], 'SST-2.tsv', ['0', '1', '1']),
  'glue_mrpc_v002': ([0, 0, 1], 'MRPC.tsv', ['0', '0', '1']),
  'glue_stsb_v002': ([2.6, 0.0, 5.0], 'STS-B.tsv', ['2.600', '0.000', '5.000']),
  'glue_mnli_matched_v002': (
    [0, 1, 2], 'MNLI-m.tsv', ['entailment', 'neutral', 'contradiction']
  ),
  'glue_mnli_mismatched_v002': (
    [2, 0, 1], 'MNLI-mm.tsv', ['contradiction', 'entailment', 'neutral']
  ),
  'glue_qnli_v002': ([0, 1, 1], 'QNLI.tsv', ['entailment', 'not_entailment', 'not_entailment']),
  'glue_qqp_v002': ([0, 1, 1], 'QQP.tsv', ['0', '1', '1']),
  'glue_rte_v002': ([0, 1, 0], 'RTE.tsv', ['entailment', 'not_entailment', 'entailment']),
  'glue_wnli_v002_simple_eval': ([1, 0, 0], 'WNLI.tsv', ['1', '0', '0']),
  'glue_ax_v002': ([2, 1, 0], 'AX.tsv', ['contradiction', 'neutral', 'entailment']),
  'super_glue_boolq_v102': ([1, 0, 1], 'BoolQ.jsonl', ['"true"', '"false"', '"true"']),
  'super_glue_cb_v102': (
    [0, 1, 2], 'CB.jsonl', ['"entailment"', '"contradiction"', '"neutral"']
  ),
  'super_glue_copa_v102': ([0, 1, 1], 'COPA.jsonl', ['0', '1', '1']),
  'super_glue_rte_v102': (
    [0, 1, 1], 'RTE.jsonl', ['"entailment"', '"not_entailment"', '"not_entailment"']
  ),
  'super_glue_wic_v102': ([1, 0, 0], 'WiC.jsonl', ['"true"', '"false"', '"false"']),
  'super_glue_wsc_v102_simple_eval': ([1, 0, 0], 'WSC.jsonl', ['"True"', '"False"', '"False"']),
  'super_glue_axb_v102': (
    [1, 0, 1], 'AX-b.jsonl', ['"not_entailment"', '"entailment"', '"not_entailment"']
  ),
  'super_glue_axg_v102': (
    [0, 0, 1], 'AX-g.jsonl', ['"entailment"', '"entailment"', '"not_entailment"']
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', FILES)
def test_a_file_has_the_labels_of_the_server_in_the_order_of_the_examples(name, tmp_path):
  values, file, labels = FILES[name]
  examples = predicted(*values)
  lines = leaderboards.write_submission({name: [examples[i] for i in (2, 0, 1)]}, tmp_path)
  assert lines[0] == f'{file}: 3 predictions'
  if file.endswith('.tsv'):
    expected = 'index\tprediction\n' + ''.join(f'{i}\t{label}\n' for i, label in enumerate(labels))
  else:
    expected = ''.join(f'{{"idx": {i}, "label": {label}}}\n' for i, label in enumerate(labels))
  assert (tmp_path / file).read_bytes() == expected.encode()


def test_a_tsv_and_json_lines_look_as_the_servers_want_them(tmp_path):
  predictions = {
    'glue_rte_v002': predicted(1, 0),
    'super_glue_wic_v102': predicted(1, 0, first=4),
  }
  leaderboards.write_submission(predictions, tmp_path)
  assert (tmp_path / 'RTE.tsv').read_text() == (
    'index\tprediction\n0\tnot_entailment\n1\tentailment\n'
  )
  assert (tmp_path / 'WiC.jsonl').read_text() == (
    '{"idx": 4, "label": "true"}\n{"idx": 5, "label": "false"}\n'
  )


def test_multirc_has_a_line_for_each_paragraph_with_its_questions_and_their_answers(tmp_path):
  predictions = [
    indexed({'value': 1}, paragraph=1, question=2, answer=4),
    indexed({'value': 0}, paragraph=0, question=0, answer=1),
    indexed({'value': 1}, paragraph=0, question=0, answer=0),
    indexed({'value': 0}, paragraph=0, question=1, answer=2),
    indexed({'value': 1}, paragraph=0, question=1, answer=3),
  ]
  lines = leaderboards.write_submission({'super_glue_multirc_v102': predictions}, tmp_path)
  assert lines[0] == 'MultiRC.jsonl: 5 predictions'
  assert (tmp_path / 'MultiRC.jsonl').read_text() == (
    '{"idx": 0, "passage": {"questions": ['
    '{"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]}, '
    '{"idx": 1, "answers": [{"idx": 2, "label": 0}, {"idx": 3, "label": 1}]}]}}\n'
    '{"idx": 1, "passage": {"questions": [{"idx": 2, "answers": [{"idx": 4, "label": 1}]}]}}\n'
  )


def test_a_query_of_record_counts_once_however_many_answers_it_has(tmp_path):
  predictions = [
    indexed({'value': 'São Paulo'}, passage=3, query=8),
    indexed({'value': 'Tom'}, passage=0, query=0),
    indexed({'value': 'left out'}, passage=0, query=0),
    indexed({'value': 'a "Bob"'}, passage=0, query=1),
  ]
  lines = leaderboards.write_submission({'super_glue_record_v102': predictions}, tmp_path)
  assert lines[0] == 'ReCoRD.jsonl: 3 predictions'
  written = (tmp_path / 'ReCoRD.jsonl').read_text()
  assert written.startswith('{"idx": 0, "label": "Tom"}\n{"idx": 1, "label": "a \\"Bob\\""}\n')
  assert json.loads(written.splitlines()[2]) == {'idx': 8, 'label': 'São Paulo'}


def test_a_variant_with_a_sentinel_makes_the_file_of_its_task(tmp_path):
  for name in ('super_glue_cb_v102', 'super_glue_wsc_v102_simple_eval'):
    values, file, _ = FILES[name]
    leaderboards.write_submission({name: predicted(*values)}, tmp_path / 'plain')
    leaderboards.write_submission({with_sentinel(name): predicted(*values)}, tmp_path / 'sentinel')
    of_both = [(tmp_path / folder / file).read_bytes() for folder in ('plain', 'sentinel')]
    assert of_both[0] == of_both[1]


TEXTS = {
  'glue_cola_v002': ('acceptable', '1'),
  'glue_sst2_v002': ('positive', '1'),
  'glue_mrpc_v002': ('equivalent', '1'),
  'glue_stsb_v002': ('3.8', '3.800'),
  'glue_mnli_matched_v002': ('neutral', 'neutral'),
  'glue_mnli_mismatched_v002': ('contradiction', 'contradiction'),
  'glue_qnli_v002': ('not_entailment', 'not_entailment'),
  'glue_qqp_v002': ('duplicate', '1'),
  'glue_rte_v002': ('not_entailment', 'not_entailment'),
  'glue_wnli_v002': ('entailment', '1'),
  'glue_wnli_v002_simple_eval': ('the worm', '1'),
  'glue_ax_v002': ('neutral', 'neutral'),
  'super_glue_boolq_v102': ('True', '"true"}'),
  'super_glue_cb_v102': ('neutral', '"neutral"}'),
  'super_glue_copa_v102': ('choice2', '1}'),
  'super_glue_multirc_v102': ('True', '1}]}]}}'),
  'super_glue_record_v102': ('Tom', '"Tom"}'),
  'super_glue_rte_v102': ('not_entailment', '"not_entailment"}'),
  'super_glue_wic_v102': ('True', '"true"}'),
  'super_glue_wsc_v102_simple_eval': ('a worm', '"True"}'),
  'super_glue_axb_v102': ('not_entailment', '"not_entailment"}'),
  'super_glue_axg_v102': ('not_entailment', '"not_entailment"}'),
}


def test_what_the_tasks_make_of_texts_is_what_submissions_are_made_of(tmp_path):
  import seqio

  importlib.import_module('t5x_lite.tasks.super_glue')  # Registers GLUE's tasks, too.
  numbers = dict.fromkeys(('paragraph', 'question', 'answer', 'passage', 'query'), 0)
  example = indexed(None, **numbers)[0] | {'idx': 0, 'targets_pretokenized': b'The worm'}
  for name, (text, expected) in TEXTS.items():
    value = seqio.TaskRegistry.get(name).postprocess_fn(text, example=example, is_target=False)
    report = leaderboards.write_submission({name: [(example, value)]}, tmp_path)
    assert (tmp_path / report[0].split(':')[0]).read_text().split()[-1] == expected, name
    if name.startswith('super_glue'):
      assert with_sentinel(name) in seqio.TaskRegistry.names()


# --- What is wrong with predictions ---


def test_predictions_that_are_no_label_become_the_most_frequent_one(tmp_path):
  predictions = {
    'glue_rte_v002': predicted(1, -1, 1, 0, -1),
    'super_glue_multirc_v102': [
      indexed({'value': value}, paragraph=0, question=0, answer=i)
      for i, value in enumerate((0, 0, 1, -1))
    ],
  }
  lines = leaderboards.write_submission(predictions, tmp_path)
  assert (tmp_path / 'RTE.tsv').read_text() == (
    'index\tprediction\n'
    '0\tnot_entailment\n1\tnot_entailment\n2\tnot_entailment\n3\tentailment\n4\tnot_entailment\n'
  )
  assert '{"idx": 3, "label": 0}' in (tmp_path / 'MultiRC.jsonl').read_text()
  assert [line for line in lines if 'no label' in line] == [
    "warning: RTE.tsv: 2 of 5 predictions are no label and became 'not_entailment', "
    'the most frequent of the others',
    'warning: MultiRC.jsonl: 1 of 4 predictions are no label and became 0, '
    'the most frequent of the others',
  ]


def test_the_first_label_stands_for_predictions_of_which_none_is_a_label(tmp_path):
  lines = leaderboards.write_submission({'super_glue_cb_v102': predicted(-1, -1)}, tmp_path)
  assert (tmp_path / 'CB.jsonl').read_text() == (
    '{"idx": 0, "label": "entailment"}\n{"idx": 1, "label": "entailment"}\n'
  )
  assert lines[1] == (
    "warning: CB.jsonl: 2 of 2 predictions are no label and became 'entailment', "
    'the first label, as none is one'
  )


def test_similarities_are_clipped_to_their_range(tmp_path):
  values = (-1.0, 5.2, 3.14159, math.nan, math.inf, np.float32(2.6))
  lines = leaderboards.write_submission({'glue_stsb_v002': predicted(*values)}, tmp_path)
  assert (tmp_path / 'STS-B.tsv').read_text() == (
    'index\tprediction\n0\t0.000\n1\t5.000\n2\t3.142\n3\t0.000\n4\t5.000\n5\t2.600\n'
  )
  assert lines[1] == (
    'warning: STS-B.tsv: 4 of 6 predictions are no number from 0 to 5 and were clipped'
  )


def test_a_count_that_is_not_the_test_set_s_is_reported_with_both_numbers(tmp_path):
  lines = leaderboards.write_submission({'glue_cola_v002': predicted(1, 0)}, tmp_path)
  warning = 'warning: CoLA.tsv has 2 predictions, but the test set has 1,063 examples'
  assert lines[1] == warning
  lines = leaderboards.write_submission({'glue_cola_v002': predicted(*[1, 0] * 600)}, tmp_path)
  assert lines[1] == warning.replace('2 predictions', '1,200 predictions')


NUM_EXAMPLES = {
  'glue_cola_v002': 1063,
  'glue_sst2_v002': 1821,
  'glue_mrpc_v002': 1725,
  'glue_stsb_v002': 1379,
  'glue_mnli_matched_v002': 9796,
  'glue_mnli_mismatched_v002': 9847,
  'glue_qnli_v002': 5463,
  'glue_qqp_v002': 390965,
  'glue_rte_v002': 3000,
  'glue_wnli_v002': 146,
  'glue_ax_v002': 1104,
  'super_glue_boolq_v102': 3245,
  'super_glue_cb_v102': 250,
  'super_glue_copa_v102': 500,
  'super_glue_multirc_v102': 9693,
  'super_glue_record_v102': 10000,
  'super_glue_rte_v102': 3000,
  'super_glue_wic_v102': 1400,
  'super_glue_wsc_v102_simple_eval': 146,
  'super_glue_axb_v102': 1104,
  'super_glue_axg_v102': 356,
}


def whole_test_set(name, size):
  if name == 'super_glue_multirc_v102':
    return [
      indexed({'value': 1}, paragraph=i // 60, question=i // 5, answer=i) for i in range(size)
    ]
  if name == 'super_glue_record_v102':
    return [indexed({'value': 'Tom'}, passage=i // 2, query=i) for i in range(size)]
  return predicted(*[1] * size)


@pytest.fixture(scope='module')
def whole_submission(tmp_path_factory):
  """What is said of predictions for all test sets, and the folder."""
  folder = tmp_path_factory.mktemp('submission')
  predictions = {name: whole_test_set(name, size) for name, size in NUM_EXAMPLES.items()}
  return leaderboards.write_submission(predictions, folder), folder


def test_a_whole_submission_has_every_file_and_no_warning(whole_submission):
  lines, _ = whole_submission
  assert lines == [
    'CoLA.tsv: 1,063 predictions',
    'SST-2.tsv: 1,821 predictions',
    'MRPC.tsv: 1,725 predictions',
    'STS-B.tsv: 1,379 predictions',
    'MNLI-m.tsv: 9,796 predictions',
    'MNLI-mm.tsv: 9,847 predictions',
    'QNLI.tsv: 5,463 predictions',
    'QQP.tsv: 390,965 predictions',
    'RTE.tsv: 3,000 predictions',
    'WNLI.tsv: 146 predictions',
    'AX.tsv: 1,104 predictions',
    'GLUE.zip: 11 files',
    'BoolQ.jsonl: 3,245 predictions',
    'CB.jsonl: 250 predictions',
    'COPA.jsonl: 500 predictions',
    'MultiRC.jsonl: 9,693 predictions',
    'ReCoRD.jsonl: 10,000 predictions',
    'RTE.jsonl: 3,000 predictions',
    'WiC.jsonl: 1,400 predictions',
    'WSC.jsonl: 146 predictions',
    'AX-b.jsonl: 1,104 predictions',
    'AX-g.jsonl: 356 predictions',
    'SuperGLUE.zip: 10 files',
  ]


def test_a_zip_holds_its_benchmark_s_files_without_folders(whole_submission):
  lines, folder = whole_submission
  files = [line.split(':')[0] for line in lines]
  zips = {'GLUE.zip': files[:11], 'SuperGLUE.zip': files[12:22]}
  assert sorted(os.listdir(folder)) == sorted(files)
  for name, members in zips.items():
    with zipfile.ZipFile(folder / name) as archive:
      assert archive.namelist() == members
      for member in archive.infolist():
        assert archive.read(member) == (folder / member.filename).read_bytes()
        assert member.external_attr >> 16 & stat.S_IRUSR
        assert member.date_time == (1980, 1, 1, 0, 0, 0)  # The same whenever it is made.


def test_files_that_the_server_misses_are_named(tmp_path):
  some = [name for name in NUM_EXAMPLES if name not in ('glue_qqp_v002', 'glue_ax_v002')]
  lines = leaderboards.write_submission({name: predicted(0) for name in some[:9]}, tmp_path)
  assert lines[-2:] == [
    'GLUE.zip: 9 files',
    'warning: GLUE.zip lacks QQP.tsv, AX.tsv, which the server wants',
  ]
  assert not (tmp_path / 'SuperGLUE.zip').exists()


# --- Writing ---


def test_a_second_call_replaces_the_files(tmp_path):
  def written(values):
    leaderboards.write_submission({'super_glue_copa_v102': predicted(*values)}, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['COPA.jsonl', 'SuperGLUE.zip']
    return [(tmp_path / name).read_bytes() for name in os.listdir(tmp_path)]

  first = written([0, 1])
  assert written([1]) != first
  assert written([0, 1]) == first


def test_a_file_that_cannot_be_completed_leaves_the_older_one(tmp_path, monkeypatch):
  def write(value):
    leaderboards.write_submission({'glue_cola_v002': predicted(value)}, tmp_path / 'new')

  write(1)
  before = {path.name: path.read_bytes() for path in (tmp_path / 'new').iterdir()}

  def interrupted(*unused):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'replace', interrupted)
  with pytest.raises(KeyboardInterrupt):
    write(0)
  assert {path.name: path.read_bytes() for path in (tmp_path / 'new').iterdir()} == before


@pytest.mark.parametrize('name', ['glue_colla_v002', 'glue_mnli_v002', 'squad_v010_allanswers'])
def test_an_unknown_task_is_an_error_that_names_those_there_are(name, tmp_path):
  predictions = {'glue_cola_v002': predicted(1), name: predicted(1)}
  with pytest.raises(errors.UserError) as caught:
    leaderboards.write_submission(predictions, tmp_path)
  message = str(caught.value)
  assert repr(name) in message
  assert all(known in message for known in (*NUM_EXAMPLES, 'glue_wnli_v002_simple_eval'))
  assert ('did you mean glue_cola_v002' in message) == (name == 'glue_colla_v002')
  assert not os.listdir(tmp_path)


def test_two_tasks_for_one_file_are_an_error_that_names_both(tmp_path):
  predictions = dict.fromkeys(('glue_wnli_v002', 'glue_wnli_v002_simple_eval'), predicted(1))
  expected = 'glue_wnli_v002 and glue_wnli_v002_simple_eval are both for WNLI.tsv: give one'
  with pytest.raises(errors.UserError, match=expected):
    leaderboards.write_submission(predictions, tmp_path)


def test_it_imports_without_tensorflow_and_seqio():
  program = (
    'import sys\n'
    "sys.modules.update(dict.fromkeys(('tensorflow', 'seqio', 'gin', 'jax', 't5x_lite.data')))\n"
    'import t5x_lite.evaluation.leaderboards\n'
  )
  process = subprocess.run([sys.executable, '-c', program], text=True, capture_output=True)
  assert process.returncode == 0, process.stderr
