"""Text preprocessors: from the examples of a data set to a text in and a text out, as T5 words them.

Each is a preprocessor in seqio's form, for before `seqio.preprocessors.tokenize`; settings are given with
functools.partial:

    seqio.TaskRegistry.add(
        'news_summaries',
        source=...,  # of examples with `article` and `summary`
        preprocessors=[
            functools.partial(texts.summarize, article_key='article', summary_key='summary'),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ], ...)
"""

import string
from collections.abc import Sequence

import seqio
import tensorflow as tf

# Stands for a label that is not known, as in test sets.
UNKNOWN = '<unk>'
_LANGUAGES = {'de': 'German', 'en': 'English', 'fr': 'French', 'ro': 'Romanian'}


def label_text(label, labels: Sequence[str]):
  """Text of a class id (int scalar); `<unk>` for -1, the label of test sets."""
  return tf.gather([*labels, UNKNOWN], tf.where(label == -1, len(labels), tf.cast(label, tf.int32)))


@seqio.map_over_dataset
def classify(example, *, prefix: str, fields: Sequence[str], labels: Sequence[str]):
  """Names each field before its text; the target is a label's text.

    {'sentence1': 'It rains.', 'sentence2': 'It is wet.', 'label': 0} becomes
    inputs:  rte sentence1: It rains. sentence2: It is wet.
    targets: entailment

  Args:
    example: has the fields, an int `label`, and `idx`.
    prefix: of the inputs, the name of the task.
    fields: names of the texts, in their order.
    labels: texts of the labels, by class id.
  """
  parts = [prefix]
  for name in fields:
    parts += [f'{name}:', example[name]]
  return {
    'inputs': tf.strings.join(parts, separator=' '),
    'targets': label_text(example['label'], labels),
    'idx': example['idx'],
  }


@seqio.map_over_dataset
def similarity(example, *, prefix: str):
  """Asks how similar two sentences are, from 0.0 to 5.0 in steps of 0.2.

  {'sentence1': 'A dog runs.', 'sentence2': 'A dog sits.', 'label': 2.55} becomes
  inputs:  stsb sentence1: A dog runs. sentence2: A dog sits.
  targets: 2.6
  """
  parts = [f'{prefix} sentence1:', example['sentence1'], 'sentence2:', example['sentence2']]
  return {
    'inputs': tf.strings.join(parts, separator=' '),
    'targets': tf.strings.as_string(tf.round(example['label'] * 5) / 5, precision=1),
    'idx': example['idx'],
  }


@seqio.map_over_dataset
def translate(example, *, source_language: str, target_language: str):
  """Names both languages.

    {'en': 'That is good.', 'de': 'Das ist gut.'} becomes
    inputs:  translate English to German: That is good.
    targets: Das ist gut.

  Args:
    example: has the text under each language.
    source_language: such as 'en'.
    target_language: such as 'de'.
  """
  names = (_LANGUAGES.get(each, each) for each in (source_language, target_language))
  return {
    'inputs': 'translate {} to {}: '.format(*names) + example[source_language],
    'targets': example[target_language],
  }


@seqio.map_over_dataset
def summarize(example, *, article_key: str, summary_key: str):
  """The article after `summarize:`; the target is the summary."""
  return {'inputs': 'summarize: ' + example[article_key], 'targets': example[summary_key]}


@seqio.map_over_dataset
def answer_from_context(example):
  """SQuAD: a question about a text. Punctuation stands between spaces.

    inputs:  question: What does it say ? context: It says : yes .
    targets: yes

  Args:
    example: `question`, `context`, and `answers` with their `text`, of which the first is the target and all are kept
      for evaluation.
  """
  answers = spaced(example['answers']['text'])
  parts = ['question:', spaced(example['question']), 'context:', spaced(example['context'])]
  return {
    'inputs': _joined(parts),
    'targets': first(answers),
    'id': example['id'],
    'answers': answers,
  }


@seqio.map_over_dataset
def answer_from_memory(example, *, prefix: str):
  """SQuAD without its texts: `answer_from_context` with nothing but the question, after `prefix`."""
  answers = spaced(example['answers']['text'])
  return {
    'inputs': _joined([prefix, spaced(example['question'])]),
    'targets': first(answers),
    'id': example['id'],
    'answers': answers,
  }


def answer_span(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """SQuAD: where in the text the answer's words are, counted from 0, both ends included.

    inputs:  question: What does it say ? context: It says : yes .
    targets: start: 2 end: 2

  Words are what spaces and punctuation leave. Examples whose first answer is not in the text are dropped.
  """

  @seqio.map_over_dataset
  def to_span(example):
    context, answers = spaced(example['context']), spaced(example['answers']['text'])
    parts = ['question:', spaced(example['question']), 'context:', context]
    return {
      'inputs': _joined(parts),
      'targets': _span(context, first(answers)),
      'id': example['id'],
      'context': context,
      'answers': answers,
    }

  return to_span(dataset).filter(lambda example: example['targets'] != '')


@seqio.map_over_dataset(num_seeds=1)
def instruct(example, seed, *, templates: Sequence[tuple[str, str]], labels: Sequence[str] = ()):
  """Words an example in one of several ways, drawn anew each time (Wei et al. 2022, section 2.1).

    {'premise': 'It rains.', 'hypothesis': 'It is wet.', 'label': 0} may become
    inputs:  It rains. Can we say that "It is wet."?
    targets: yes

  Args:
    example: has the fields that the templates name.
    seed: int32 [2], from seqio.
    templates: pairs of inputs and targets, with `{field}` for a text and `{label}` for the label's.
    labels: texts of the labels, by class id, where there is an int `label`.
  """
  texts = dict(example)
  if labels:
    texts['label'] = label_text(example['label'], labels)
  number = tf.random.stateless_uniform([], seed, maxval=len(templates), dtype=tf.int32)
  inputs, targets = (
    tf.stack([_filled(template[side], texts) for template in templates])[number] for side in (0, 1)
  )
  return {'inputs': inputs, 'targets': targets, 'idx': example['idx']}


def _filled(template, texts):
  parts = []
  for literal, field, _, _ in string.Formatter().parse(template):
    parts.append(literal)
    if field is not None:
      parts.append(texts[field])
  return tf.strings.join(parts)


def spaced(text):
  """Texts with spaces around punctuation (of ASCII), and single spaces everywhere."""
  return tf.strings.regex_replace(
    tf.strings.regex_replace(text, '([[:punct:]])', r' \1 '), r'\s+', ' '
  )


def _joined(parts):
  return tf.strings.regex_replace(tf.strings.join(parts, separator=' '), r'\s+', ' ')


def first(answers):
  """The first of some texts; empty if there are none, as in test sets."""
  return tf.concat([answers, ['']], axis=0)[0]


def _span(context, answer):
  """'start: i end: j' of an answer's words among a context's, or ''."""
  words, wanted = (
    tf.strings.split(tf.strings.regex_replace(text, r'[^\pL\pN_]', ' '))
    for text in (context, answer)
  )
  length = tf.size(wanted)
  starts = tf.range(tf.maximum(tf.size(words) - length + 1, 0))
  windows = tf.gather(words, starts[:, None] + tf.range(length)[None])  # [start, word]
  matching = tf.where(tf.reduce_all(windows == wanted[None], axis=1))[:, 0]
  if tf.size(matching) == 0 or length == 0:
    return ''
  start = tf.cast(matching[0], tf.int32)
  numbers = tf.strings.as_string([start, start + length - 1])
  return tf.strings.join(['start: ', numbers[0], ' end: ', numbers[1]])
