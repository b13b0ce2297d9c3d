"""Questions to a model's memory (Roberts et al. 2020), and TriviaQA with its texts.

As in that paper a tenth of TFDS's training examples validates, and its validation split, the only one with answers,
tests; local files are read as they are named. Files are JSON lines with TFDS's fields, or TriviaQA's own JSON.
"""

import functools

import numpy as np
import seqio
import tensorflow as tf
from t5x_lite.tasks import registration, squad

from t5x_lite.data import local_data, metrics, records, texts


@seqio.map_over_dataset
def _natural_question(example):
  return {
    'inputs': 'nq question: ' + example['question'],
    'targets': texts.first(example['answer']),
    'answers': example['answer'],
  }


@seqio.map_over_dataset
def _trivia_question(example):
  return {
    'inputs': 'trivia_qa question: ' + example['question'],
    'targets': example['answer']['value'],
    'answers': example['answer']['aliases'],
  }


def _held_out(num_train):
  """TFDS's splits, with the end of the training examples for validation."""
  return {
    'train': f'train[:{num_train}]',
    'validation': f'train[{num_train}:]',
    'test': 'validation',
  }


registration.add_task(
  'natural_questions_open',
  local_data.LocalOrTfdsDataSource(
    'natural_questions_open:1.0.0',
    ('train', 'validation', 'test'),
    functools.partial(
      records.RecordsDataSource,
      layout=records.Layout(fields={'question': str, 'answer': [str]}),
    ),
    tfds_splits=_held_out(79168),
    other_names=('natural_questions',),
  ),
  _natural_question,
  [metrics.squad],
  squad.all_answers,
)


# --- TriviaQA ---


def _trivia_examples(record):
  """Examples of TriviaQA's own JSON, whose `Data` has names in capitals; or a line with TFDS's fields."""
  for each in record.get('Data', [record]):
    each = {name.lower(): value for name, value in each.items()}
    answer = {name.lower(): value for name, value in each.get('answer', {}).items()}
    yield {
      'question': each['question'],
      'answer/value': answer.get('value', ''),
      'answer/aliases': answer.get('aliases', []),
      'answer/normalized_aliases': answer.get(
        'normalized_aliases', answer.get('normalizedaliases', [])
      ),
      'entity_pages/wiki_context': each.get('entity_pages', {}).get('wiki_context', []),
      'search_results/search_context': each.get('search_results', {}).get('search_context', []),
    }


def _trivia_source(config, splits, tfds_splits=None, *, contexts):
  fields = {'question': str, 'answer/value': str}
  fields |= dict.fromkeys(('answer/aliases', 'answer/normalized_aliases'), [str])
  if contexts:
    fields |= {'entity_pages/wiki_context': [str], 'search_results/search_context': [str]}
  layout = records.Layout(fields=fields, expand=_trivia_examples)
  return local_data.LocalOrTfdsDataSource(
    f'trivia_qa/{config}:1.1.0',
    splits,
    functools.partial(records.RecordsDataSource, layout=layout),
    tfds_splits=tfds_splits,
    other_names=('trivia_qa',),
    suffixes=('.json', '.jsonl'),
  )


registration.add_task(
  'trivia_qa_open',
  _trivia_source(
    'unfiltered.nocontext', ('train', 'validation', 'test'), _held_out(78785), contexts=False
  ),
  _trivia_question,
  [metrics.trivia_qa],
  squad.all_answers,
)


def _questions_about_texts(dataset):
  """One example for each text and each alias of the answer that is in it."""

  @seqio.map_over_dataset
  def to_text(example):
    contexts = texts.spaced(
      tf.concat(
        [example['entity_pages']['wiki_context'], example['search_results']['search_context']],
        axis=0,
      )
    )
    aliases = texts.spaced(example['answer']['normalized_aliases'])
    context_numbers, alias_numbers = tf.numpy_function(
      _pairs_with_answer, [contexts, aliases], (tf.int64, tf.int64)
    )
    start = tf.strings.join(['question: ', texts.spaced(example['question']), ' context: '])
    inputs = start + tf.gather(contexts, tf.ensure_shape(context_numbers, [None]))
    return {
      'inputs': tf.strings.regex_replace(inputs, r'\s+', ' '),
      'targets': tf.gather(aliases, tf.ensure_shape(alias_numbers, [None])),
    }

  return to_text(dataset).unbatch()


def _pairs_with_answer(contexts, aliases):
  """Numbers of the contexts and of the aliases that are in them, case aside."""
  pairs = [
    (i, j)
    for i, context in enumerate(contexts)
    for j, alias in enumerate(aliases)
    if alias.lower() in context.lower()
  ]
  return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)


def cut_around_answer(dataset, sequence_length):
  """Cuts longer inputs at random places around the answer; drops those whose tokens have it not."""
  if not sequence_length:
    return dataset
  most = sequence_length['inputs']

  @seqio.map_over_dataset(num_seeds=1)
  def cut(example, seed):
    inputs, answer = example['inputs'], example['targets']
    length, answer_length = tf.size(inputs), tf.size(answer)
    if length > most:
      starts = tf.range(length - answer_length + 1)
      windows = tf.gather(inputs, starts[:, None] + tf.range(answer_length)[None])
      found = tf.where(tf.reduce_all(windows == answer[None], axis=1))[:, 0]
      if tf.size(found) > 0 and answer_length <= most:
        place = tf.cast(found[0], tf.int32)
        start = tf.random.stateless_uniform(
          [],
          seed,
          minval=tf.maximum(0, place - (most - answer_length)),
          maxval=tf.minimum(place, length - most) + 1,
          dtype=tf.int32,
        )
        inputs = inputs[start : start + most]
      else:
        inputs = inputs[:0]
    return {'inputs': inputs, 'targets': answer}

  return cut(dataset).filter(lambda example: tf.size(example['inputs']) > 0)


registration.add_task(
  'trivia_qa_v010',
  _trivia_source('rc', ('train', 'validation', 'test'), contexts=True),
  _questions_about_texts,
  after_caching=[cut_around_answer],
)
