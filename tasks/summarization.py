"""News and their summaries: CNN / Daily Mail (Hermann et al. 2015) and XSum (Narayan et al. 2018).

Files are JSON lines or CSV with TFDS's fields: `article` and `highlights`, `document` and `summary`.
"""

import functools

from t5x_lite.tasks import registration

from t5x_lite.data import local_data, metrics, records, texts

for _name, _tfds_name, _article, _summary in (
  ('cnn_dailymail_v002', 'cnn_dailymail:3.4.0', 'article', 'highlights'),
  ('xsum_v110', 'xsum:1.1.0', 'document', 'summary'),
):
  registration.add_task(
    _name,
    local_data.LocalOrTfdsDataSource(
      _tfds_name,
      ('train', 'validation', 'test'),
      functools.partial(
        records.RecordsDataSource, layout=records.Layout(fields={_article: str, _summary: str})
      ),
    ),
    functools.partial(texts.summarize, article_key=_article, summary_key=_summary),
    [metrics.rouge],
  )
