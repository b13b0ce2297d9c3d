"""GLUE and SuperGLUE as their leaderboards have them: one score, and the files they take.

The score is the mean of the tasks' scores, and a task's score that of its metrics (Wang et al.
2019, "GLUE", section 3.4; Wang et al. 2019, "SuperGLUE", section 3.3). MNLI's two test sets are
one task, as the leaderboard's rows show; the diagnostic sets AX, AX-b and AX-g do not count.

The files are those of https://gluebenchmark.com/faq and https://super.gluebenchmark.com/faq, in
a zip without folders. GLUE's server refuses a zip that lacks one of its files.
"""

import collections
import dataclasses
import functools
import io
import itertools
import json
import pathlib
import re
import statistics
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite import errors
from t5x_lite.evaluation import files as atomic_files

Predictions = Mapping[str, Iterable[tuple[Mapping[str, np.ndarray], Any]]]


def _labels(*labels):
  """What the server calls the classes, in the order of the task's own labels."""

  def convert(class_ids):
    ids = range(len(labels))
    counts = collections.Counter(each for each in class_ids if each in ids)
    usual = max(ids, key=counts.__getitem__)
    remark = ''
    if num_invalid := len(class_ids) - counts.total():
      why = 'the most frequent of the others' if counts else 'the first label, as none is one'
      count = f'{num_invalid:,} of {len(class_ids):,}'
      remark = f'{count} predictions are no label and became {labels[usual]!r}, {why}'
    return [labels[each if each in ids else usual] for each in class_ids], remark

  return convert


def _similarities(values):
  numbers = [min(5.0, max(0.0, value)) for value in values]  # NaN becomes 0.
  num_clipped = sum(not 0 <= value <= 5 for value in values)
  count = f'{num_clipped:,} of {len(values):,}'
  remark = f'{count} predictions are no number from 0 to 5 and were clipped'
  return [f'{number:.3f}' for number in numbers], remark if num_clipped else ''


def _texts(values):
  return values, ''


def _tsv(rows):
  return ['index\tprediction', *(f'{index}\t{label}' for (index,), label in rows)]


def _json_lines(rows):
  return [json.dumps({'idx': index, 'label': label}) for (index,), label in rows]


def _multirc(rows):
  """A line for each paragraph, nested as in the data."""
  lines = []
  for paragraph, of_paragraph in itertools.groupby(rows, lambda row: row[0][0]):
    questions = []
    for question, of_question in itertools.groupby(of_paragraph, lambda row: row[0][1]):
      answers = [{'idx': answer, 'label': label} for (*_, answer), label in of_question]
      questions.append({'idx': question, 'answers': answers})
    lines.append(json.dumps({'idx': paragraph, 'passage': {'questions': questions}}))
  return lines


@dataclasses.dataclass(frozen=True)
class _Task:
  """A file of a submission.

  Attributes:
    file: its name.
    name: of the seqio task that it is made of.
    num_examples: in the test set.
    convert: from post-processed predictions to what the server wants, and a remark or ''.
    metrics: whose mean is the task's score; none for a diagnostic set.
    index: features that say which example it is.
    to_lines: from rows of (index, label) to the lines of the file.
    part_of: what counts as one task with others.
    other_name: of a seqio task that it may be made of instead.
  """

  file: str
  name: str
  num_examples: int
  convert: Callable[[Sequence[Any]], tuple[Sequence[Any], str]]
  metrics: tuple[str, ...] = ('accuracy',)
  index: tuple[str, ...] = ('idx',)
  to_lines: Callable[[Sequence[tuple[tuple[int, ...], Any]]], list[str]] = _json_lines
  part_of: str = ''
  other_name: str | None = None


_glue = functools.partial(_Task, to_lines=_tsv)
_BINARY = _labels(0, 1)
_TRUTH = _labels('false', 'true')
_ENTAILMENT = _labels('entailment', 'not_entailment')
_MNLI = _labels('entailment', 'neutral', 'contradiction')
_CB = _labels('entailment', 'contradiction', 'neutral')
_F1 = ('f1', 'accuracy')
_CORRELATIONS = ('pearson_corrcoef', 'spearman_corrcoef')
_F1_ALL = ('f1', 'exact_match')
_ANSWER = ('idx/paragraph', 'idx/question', 'idx/answer')
_QUERY = ('idx/query',)  # Numbered through all passages.

# The numbers of examples are those of TFDS's glue 2.0.0 and super_glue 1.0.2.
_GLUE = (
  _glue('CoLA.tsv', 'glue_cola_v002', 1063, _BINARY, ('matthews_corrcoef',)),
  _glue('SST-2.tsv', 'glue_sst2_v002', 1821, _BINARY),
  _glue('MRPC.tsv', 'glue_mrpc_v002', 1725, _BINARY, _F1),
  _glue('STS-B.tsv', 'glue_stsb_v002', 1379, _similarities, _CORRELATIONS),
  _glue('MNLI-m.tsv', 'glue_mnli_matched_v002', 9796, _MNLI, part_of='MNLI'),
  _glue('MNLI-mm.tsv', 'glue_mnli_mismatched_v002', 9847, _MNLI, part_of='MNLI'),
  _glue('QNLI.tsv', 'glue_qnli_v002', 5463, _ENTAILMENT),
  _glue('QQP.tsv', 'glue_qqp_v002', 390965, _BINARY, _F1),
  _glue('RTE.tsv', 'glue_rte_v002', 3000, _ENTAILMENT),
  _glue('WNLI.tsv', 'glue_wnli_v002', 146, _BINARY, other_name='glue_wnli_v002_simple_eval'),
  _glue('AX.tsv', 'glue_ax_v002', 1104, _MNLI, ()),
)
_SUPER_GLUE = (
  _Task('BoolQ.jsonl', 'super_glue_boolq_v102', 3245, _TRUTH),
  _Task('CB.jsonl', 'super_glue_cb_v102', 250, _CB, ('mean_3class_f1', 'accuracy')),
  _Task('COPA.jsonl', 'super_glue_copa_v102', 500, _BINARY),
  _Task(
    'MultiRC.jsonl', 'super_glue_multirc_v102', 9693, _BINARY, _F1_ALL, _ANSWER, to_lines=_multirc
  ),
  _Task('ReCoRD.jsonl', 'super_glue_record_v102', 10000, _texts, ('f1', 'em'), _QUERY),
  _Task('RTE.jsonl', 'super_glue_rte_v102', 3000, _ENTAILMENT),
  _Task('WiC.jsonl', 'super_glue_wic_v102', 1400, _TRUTH),
  _Task('WSC.jsonl', 'super_glue_wsc_v102_simple_eval', 146, _labels('False', 'True')),
  _Task('AX-b.jsonl', 'super_glue_axb_v102', 1104, _ENTAILMENT, ()),
  _Task('AX-g.jsonl', 'super_glue_axg_v102', 356, _ENTAILMENT, ()),
)


def _variants(task, names):
  """Those of `names` that are the task's, with sentinels or without."""
  registered = ((name, re.sub(r'_\d+_sentinel', '', name)) for name in names)
  return [name for name, plain in registered if plain in (task.name, task.other_name)]


def scores(results: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
  """Returns the leaderboards' averages of what there is.

  Args:
    results: values of metrics by name, by task. What is no task of a benchmark, or lacks one of
      its metrics, does not count; of several variants of a task the first counts.

  Returns:
    'score' and 'num_tasks' by benchmark, 'glue' and 'super_glue', if at least two of its tasks
    are there. `num_tasks` is 9 for all of GLUE, 8 for all of SuperGLUE.
  """
  averages = {}
  for benchmark, tasks in (('glue', _GLUE), ('super_glue', _SUPER_GLUE)):
    values = collections.defaultdict(list)
    for task in tasks:
      measured = [results[name] for name in _variants(task, results)]
      measured = [metrics for metrics in measured if set(task.metrics) <= set(metrics)]
      if task.metrics and measured:
        value = statistics.fmean(measured[0][name] for name in task.metrics)
        values[task.part_of or task.file].append(value)
    if len(values) >= 2:
      score = statistics.fmean(map(statistics.fmean, values.values()))
      averages[benchmark] = {'score': score, 'num_tasks': len(values)}
  return averages


def write_submission(predictions: Predictions, folder) -> list[str]:
  """Writes the files of a submission and, for each benchmark, the zip of them to upload.

  Args:
    predictions: by task, (example, value) for each example of its test set: the features of the
      task's data set, of which those named 'idx' are read, and what the task's postprocess_fn
      makes of the predicted text. A second value for the same example is left out.
    folder: where to write. Each file appears complete or not at all, and replaces an older one.

  Returns:
    Lines to print: what was written, and warnings.

  Raises:
    UserError: a task that the leaderboards do not know, or two for the same file.
  """
  check_names(predictions)
  report = []
  for title, tasks in (('GLUE', _GLUE), ('SuperGLUE', _SUPER_GLUE)):
    files = {}
    for task in tasks:
      for name in _variants(task, predictions):
        rows, remark = _rows(task, predictions[name])
        files[task.file] = ''.join(f'{line}\n' for line in task.to_lines(rows)).encode()
        report.append(f'{task.file}: {len(rows):,} predictions')
        if remark:
          report.append(f'warning: {task.file}: {remark}')
        if len(rows) != task.num_examples:
          counts = f'{len(rows):,} predictions, but the test set has {task.num_examples:,} examples'
          report.append(f'warning: {task.file} has {counts}')
    if files:
      zip_file = f'{title}.zip'
      for file, content in (files | {zip_file: _zip(files)}).items():
        with atomic_files.atomic_file(pathlib.Path(folder) / file, 'wb') as opened:
          opened.write(content)
      report.append(f'{zip_file}: {len(files)} files')
      if missing := [task.file for task in tasks if task.file not in files]:
        report.append(f'warning: {zip_file} lacks {", ".join(missing)}, which the server wants')
  return report


def check_names(names: Iterable[str]) -> None:
  """Raises UserError if the leaderboards do not know a task, or take but one of two."""
  known = set()
  for task in (*_GLUE, *_SUPER_GLUE):
    variants = _variants(task, names)
    if len(variants) > 1:
      raise errors.UserError(f'{" and ".join(variants)} are both for {task.file}: give one')
    known |= {*variants, *filter(None, (task.name, task.other_name))}
  for name in names:
    if name not in known:
      raise errors.UserError(
        f'the leaderboards have no task {name!r}{errors.did_you_mean(name, known)}; '
        f'they take {", ".join(sorted(known))}'
      )


def _rows(task, predictions):
  """Returns [(index, label)] in the order of the index, and a remark."""
  values = {}
  for example, value in predictions:
    index = tuple(int(example[name]) for name in task.index)
    values.setdefault(index, value['value'] if isinstance(value, Mapping) else value)
  indices = sorted(values)
  labels, remark = task.convert([values[index] for index in indices])
  return list(zip(indices, labels, strict=True)), remark


def _zip(files):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    for name, content in files.items():
      # Without the time, the same files make the same zip.
      archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
  return buffer.getvalue()
