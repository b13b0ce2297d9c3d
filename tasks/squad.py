"""SQuAD 1.1 (Rajpurkar et al. 2016): questions about a text, with it, as a place in it, and without it.

Files are SQuAD's own JSON, train-v1.1.json and dev-v1.1.json, also as XQuAD has it; or JSON lines.
"""

import functools

import tensorflow as tf
from t5x_lite.tasks import registration

from t5x_lite.data import local_data, metrics, records, texts


def _questions(record):
  """One example for each question: of SQuAD's document, or of JSON lines with TFDS's fields."""
  if 'data' not in record:
    yield _flat(record, record)
    return
  for article in record['data']:
    if 'paragraphs' not in article:
      yield _flat(article, article)
    for paragraph in article.get('paragraphs', ()):
      for question in paragraph['qas']:
        yield _flat(question, paragraph) | {'title': article.get('title', '')}


def _flat(question, paragraph):
  answers = question.get('answers', [])
  if isinstance(answers, list):
    answers = [each['text'] for each in answers]
  else:
    answers = answers['text']
  kept = {name: value for name, value in question.items() if name in ('id', 'question', 'title')}
  return {'title': '', **kept, 'context': paragraph['context'], 'answers/text': answers}


def _source():
  fields = dict.fromkeys(('id', 'title', 'context', 'question'), str) | {'answers/text': [str]}
  layout = records.Layout(fields=fields, expand=_questions)
  return local_data.LocalOrTfdsDataSource(
    'squad/v1.1:3.0.0',
    ('train', 'validation'),
    functools.partial(records.RecordsDataSource, layout=layout),
    other_names=('squad',),
    suffixes=('.json', '.jsonl'),
  )


def all_answers(text, *, example=None, is_target=False):
  """Post-processes an answer: the target is all of the example's answers."""
  return list(map(tf.compat.as_text, example['answers'])) if is_target else text


def _span_and_answers(text, *, example=None, is_target=False):
  if not is_target:
    return text
  context = tf.compat.as_text(example['context'])
  return {'answers': all_answers(text, example=example, is_target=True), 'context': context}


for _name, _to_text, _metric, _postprocess in (
  ('allanswers', texts.answer_from_context, metrics.squad, all_answers),
  (
    'context_free',
    functools.partial(texts.answer_from_memory, prefix='squad trivia question:'),
    metrics.squad,
    all_answers,
  ),
  ('allanswers_span', texts.answer_span, metrics.span_squad, _span_and_answers),
):
  registration.add_task(f'squad_v010_{_name}', _source(), _to_text, [_metric], _postprocess)
