"""GLUE (Wang et al. 2019, https://gluebenchmark.com) as text: Raffel et al. 2020, appendix D.

Files are those of GLUE's own download: CoLA/train.tsv, MNLI/dev_matched.tsv, diagnostic/diagnostic.tsv.
"""

import functools

from t5x_lite.tasks import registration

from t5x_lite.data import local_data, metrics, records, texts

VERSION = '2.0.0'  # Of TFDS's data set; 1.0.0, which T5 read, can no longer be prepared.
SPLITS = ('train', 'validation', 'test')
MNLI_SPLITS = ('train', 'validation_matched', 'validation_mismatched', 'test_matched', 'test_mismatched')  # fmt: skip
ENTAILMENT = ('entailment', 'not_entailment')
MNLI_LABELS = ('entailment', 'neutral', 'contradiction')

_ACCURACY = (metrics.accuracy, metrics.invalid_predictions)
_F1 = (metrics.f1_score_with_invalid, *_ACCURACY)


def source(name, splits=SPLITS, *, fields, labels, names=None, other_names=(), **layout):
  """A data set of GLUE, of TFDS or of files with a header, unless `layout` names columns."""
  kinds = {field: str for field in fields} | {'label': labels, 'idx': records.NUMBER}
  names = {'label': ('gold_label',), 'idx': ('index',)} | (names or {})
  open_files = functools.partial(
    records.RecordsDataSource, layout=records.Layout(fields=kinds, names=names, **layout)
  )
  return local_data.LocalOrTfdsDataSource(
    f'glue/{name}:{VERSION}', splits, open_files, other_names=other_names
  )


def classification(prefix, fields, labels):
  """Arguments of `registration.add_task`: `texts.classify`, and back to class ids."""
  return {
    'to_text': functools.partial(texts.classify, prefix=prefix, fields=fields, labels=labels),
    'postprocess_fn': functools.partial(metrics.label_to_class_id, label_classes=labels),
  }


def _add(name, fields, labels, metric_fns, **options):
  registration.add_task(
    f'glue_{name}_v002',
    source(name, fields=fields, labels=labels, **options),
    metric_fns=metric_fns,
    **classification(name, fields, labels),
  )


_PAIR = ('sentence1', 'sentence2')
_add(
  'cola',
  ('sentence',),
  ('unacceptable', 'acceptable'),
  (metrics.matthews_corrcoef, metrics.invalid_predictions),
  headerless=('source', 'label', 'mark', 'sentence'),
)
_add('sst2', ('sentence',), ('negative', 'positive'), _ACCURACY)
_add(
  'mrpc',
  _PAIR,
  ('not_equivalent', 'equivalent'),
  _F1,
  names={'sentence1': ('#1 String',), 'sentence2': ('#2 String',), 'label': ('Quality',)},
)
_add(
  'qqp',
  ('question1', 'question2'),
  ('not_duplicate', 'duplicate'),
  _F1,
  names={'label': ('is_duplicate',)},
  leave_out_broken=True,  # Some rows of GLUE's own file lack values.
)
_add('qnli', ('question', 'sentence'), ENTAILMENT, _ACCURACY)
_add('rte', _PAIR, ENTAILMENT, _ACCURACY)
_add('wnli', _PAIR, ('not_entailment', 'entailment'), _ACCURACY)

registration.add_task(
  'glue_stsb_v002',
  source(
    'stsb',
    fields=_PAIR,
    labels=float,
    names={'label': ('score',)},
    # Of the STS benchmark's own files, sts-train.csv.
    headerless=('genre', 'filename', 'year', 'number', 'label', 'sentence1', 'sentence2'),
  ),
  functools.partial(texts.similarity, prefix='stsb'),
  metric_fns=(
    metrics.pearson_corrcoef,
    metrics.spearman_corrcoef,
    metrics.invalid_predictions,
  ),
  postprocess_fn=metrics.text_to_float,
)

_MNLI_FIELDS = ('hypothesis', 'premise')
_MNLI_NAMES = {'premise': ('sentence1',), 'hypothesis': ('sentence2',)}


def _add_mnli(name, data_set, splits, metric_fns, **options):
  registration.add_task(
    f'glue_{name}_v002',
    source(
      data_set,
      splits,
      fields=_MNLI_FIELDS,
      labels=MNLI_LABELS,
      names=_MNLI_NAMES,
      **options,
    ),
    metric_fns=metric_fns,
    **classification('mnli', _MNLI_FIELDS, MNLI_LABELS),
  )


_add_mnli('mnli', 'mnli', MNLI_SPLITS, _ACCURACY)
for _part in ('matched', 'mismatched'):
  _add_mnli(
    f'mnli_{_part}',
    'mnli',
    {split: f'{split}_{_part}' for split in ('validation', 'test')},
    _ACCURACY,
  )
# The diagnostic set is MNLI's without labels.
_add_mnli('ax', 'ax', ('test',), (), other_names=('glue/diagnostic',))
