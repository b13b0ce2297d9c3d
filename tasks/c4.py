"""C4, the text that T5 was pre-trained on (Raffel et al. 2020, section 2.2), under each objective; and Wikipedia.

Files are those of the public release, c4/en/c4-train.00000-of-01024.json.gz, or other JSON lines with a `text`.
"""

import functools

import seqio
from t5x_lite.tasks import registration

from t5x_lite.data import chosen_objective, local_data, objectives, sources

# Of TFDS's data set; 2.2.0, which T5 read and tasks are named after, can no longer be prepared.
VERSION = '3.1.0'


@seqio.map_over_dataset
def _document_to_targets(example):
  return {'targets': example['text']}


def _source(tfds_name, splits=('train', 'validation')):
  return local_data.LocalOrTfdsDataSource(
    tfds_name,
    splits,
    functools.partial(sources.JsonLinesDataSource, fields=('text',)),
    suffixes=('.json', '.jsonl'),
  )


def _add(name, tfds_name, objective, **options):
  registration.add_task(
    name, _source(tfds_name, **options), _document_to_targets, after_caching=[objective]
  )


for _objective in (
  objectives.span_corruption,
  objectives.random_spans_drop,
  objectives.iid_denoising,
  objectives.bert_style,
  objectives.mass_style,
  objectives.deshuffling,
  objectives.prefix_lm,
):
  _add(f'c4_v220_{_objective.__name__}', f'c4/en:{VERSION}', _objective)

seqio.TaskRegistry.add(
  'c4_v220_full_lm',
  source=_source(f'c4/en:{VERSION}'),
  preprocessors=[
    _document_to_targets,
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    objectives.full_lm,
  ],
  output_features={'targets': registration.FEATURES['targets']},
)

objectives.add_mixture_of_denoisers(
  'c4_v220_ul2',
  source=_source(f'c4/en:{VERSION}'),
  preprocessors=[
    _document_to_targets,
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
  ],
  output_features=registration.FEATURES,
)

for _name, _config in (
  ('c4', 'en'),
  ('c4_noclean', 'en.noclean'),
  ('c4_realnewslike', 'realnewslike'),
  ('c4_webtextlike', 'webtextlike'),
):
  _add(f'{_name}_v020_unsupervised', f'c4/{_config}:{VERSION}', chosen_objective.unsupervised)
_add(
  'wikipedia_20190301.en_v003_unsupervised',
  'wikipedia/20190301.en:1.0.0',
  chosen_objective.unsupervised,
  splits=('train',),
)
