"""Translation from English, of the Conferences on Machine Translation (https://www.statmt.org).

Files are parallel texts, train.en and train.de, or JSON lines with a text for each language.
"""

import functools

from t5x_lite.tasks import registration

from t5x_lite.data import local_data, metrics, records, sources, texts


def _translation(record):
  yield record.get('translation', record)


def _open_files(split_to_files, *, languages):
  if any(f.removesuffix('.gz').endswith(languages) for fs in split_to_files.values() for f in fs):
    return sources.ParallelTextDataSource(split_to_files, languages)
  layout = records.Layout(
    fields=dict.fromkeys(languages, str), expand=_translation, unlabelled_splits=()
  )
  return records.RecordsDataSource(split_to_files, layout)


def _add(name, data_set, target, splits=('train', 'validation', 'test')):
  """Registers a task from English, of a data set that TFDS names by the other language."""
  languages = ('en', target)
  registration.add_task(
    name,
    local_data.LocalOrTfdsDataSource(
      f'{data_set}/{target}-en:1.0.0',
      splits,
      functools.partial(_open_files, languages=languages),
      suffixes=('.en', f'.{target}', '.json', '.jsonl'),
    ),
    functools.partial(texts.translate, source_language='en', target_language=target),
    [metrics.bleu],
  )


_add('wmt14_ende_v003', 'wmt14_translate', 'de')
_add('wmt14_enfr_v003', 'wmt14_translate', 'fr')
_add('wmt15_enfr_v003', 'wmt15_translate', 'fr')
_add('wmt16_enro_v003', 'wmt16_translate', 'ro')
_add('wmt19_ende_v003', 'wmt19_translate', 'de', splits=('train', 'validation'))
_add('wmt_t2t_ende_v003', 'wmt_t2t_translate', 'de')
