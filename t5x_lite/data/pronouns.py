"""Winograd schemas as text: a pronoun is marked, and the target says what it stands for.

    inputs:  wsc: Bob asked Tom if *he* can lend some money.
    targets: Tom

After Raffel et al. 2020, section 2.4, and Kocijan et al. 2019 for what data to train on.
"""

import re
import string

import seqio
import tensorflow as tf

from t5x_lite import errors
from t5x_lite.data import sources

_PREFIX = 'wsc: '
_PRONOUNS = ('he', 'she', 'they', 'it', 'her', 'his', 'their', 'them', 'him')
_ARTICLES = ('a', 'an', 'the')
_DETERMINERS = {
  'a', 'an', 'few', 'her', 'his', 'each', 'every', 'many', 'much', 'my', 'our', 'some', 'that', 'the',
  'their', 'these', 'this', 'those', 'which', 'whose', 'your',
}  # fmt: skip
_SENTENCE_SIGNS = '.,?!'


def only_right(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Drops examples whose `label` says that the pronoun stands for something else."""
  return dataset.filter(lambda example: example['label'] != 0)


@seqio.map_over_dataset
def mark_pronoun(example):
  """SuperGLUE's WSC: the text's word number `span2_index` is the pronoun, `span1_text` is the target.

  The target need not be what the pronoun stands for; `label` says whether it is.

  Args:
    example: `text`, `span1_text`, `span2_text`, `span2_index`, `label` and `idx`.
  """
  text = tf.numpy_function(
    _with_mark, [example['text'], example['span2_index'], example['span2_text']], tf.string
  )
  return {
    'inputs': _PREFIX + tf.ensure_shape(text, []),
    'targets': example['span1_text'],
    'label': example['label'],
    'idx': example['idx'],
  }


def _with_mark(text, index, pronoun):
  text, pronoun = text.decode(), pronoun.decode()
  words = text.split(' ')
  # In two texts the index is beside the word, or the word has a sign.
  nearest = sorted(range(len(words)), key=lambda i: abs(i - index))
  for i in nearest:
    word = words[i]
    bare = word.strip(string.punctuation)
    if bare == pronoun.strip(string.punctuation):
      before, _, after = word.partition(bare)
      words[i] = ' '.join(filter(None, (before, f'*{pronoun}*', after)))
      return ' '.join(words).encode()
  raise errors.UserError(sources.in_graph(f'{pronoun!r} is not a word of {text!r}'))


@seqio.map_over_dataset
def choose_candidate(example):
  """Definite Pronoun Resolution: the first place of the pronoun is marked; `label` tells the right candidate.

  Args:
    example: `sentence`, `pronoun`, `candidates` and `label`.
  """
  pattern = tf.strings.join([' (', example['pronoun'], r')( |\.|,)'])
  marked = tf.strings.regex_replace(example['sentence'], pattern, r' *\1*\2', replace_global=False)
  return {'inputs': _PREFIX + marked, 'targets': example['candidates'][example['label']]}


@seqio.map_over_dataset
def find_pronoun(example):
  """GLUE's WNLI, for evaluation: finds the pronoun of `sentence1` that `sentence2` has something else for.

    sentence1: The fish ate the worm. It was tasty.
    sentence2: The worm was tasty.
    inputs:    wsc: The fish ate the worm. *It* was tasty.
    targets:   The worm

  Args:
    example: `sentence1`, `sentence2`, `label`, which says whether the target is right, and `idx`.
  """
  inputs, targets = tf.numpy_function(
    _replaced_pronoun, [example['sentence1'], example['sentence2']], (tf.string, tf.string)
  )
  return {
    'inputs': _PREFIX + tf.ensure_shape(inputs, []),
    'targets': tf.ensure_shape(targets, []),
    'premise': example['sentence1'],
    'hypothesis': example['sentence2'],
    'label': example['label'],
    'idx': example['idx'],
  }


def _replaced_pronoun(premise, hypothesis):
  """The premise with its pronoun marked, and what the hypothesis has in its place."""
  premise, hypothesis = premise.decode(), hypothesis.decode()
  words = premise.split(' ')
  plain = [_plain(word) for word in words]
  told = [word for word in map(_plain, hypothesis.split()) if word]
  best = (-1, 0, '')
  for i, word in enumerate(plain):
    if word in _PRONOUNS:
      before = [each for each in plain[:i] if each]
      after = [each for each in plain[i + 1 :] if each]
      score, candidate = _match(before, after, told)
      if score > best[0]:
        best = score, i, candidate
  _, i, candidate = best
  word = words[i]
  marked = f'*{word[:-1]}* {word[-1]}' if word[-1:] in tuple(_SENTENCE_SIGNS) else f'*{word}*'
  words[i] = marked
  return ' '.join(words).encode(), _as_written(candidate, hypothesis).encode()


def _plain(word):
  return re.sub(r'[.,?!]$', '', word.lower())


def _match(before, after, told):
  """How many words around a pronoun are in the hypothesis, too, and what that has between them."""
  num_after = _common_start(after, told)
  num_before = _common_start(before[::-1], told[::-1])
  if not num_before + num_after:
    return 0, ''
  left = ' '.join(map(re.escape, before[len(before) - num_before :]))
  right = ' '.join(map(re.escape, after[:num_after]))
  text = ' '.join(told)
  for pattern in (f'{left} (.+) {right}', f'^(.+) {right}', f'{left} (.+)$'):
    match = re.search(pattern.strip(), text)
    if match:
      return num_before + num_after, match[1]
  return num_before + num_after, ''


def _common_start(words, told):
  """The most words from the start that are, in a row, a part of the hypothesis."""
  text = ' '.join(told)
  return next((i for i in range(len(words)) if ' '.join(words[: i + 1]) not in text), len(words))


def _as_written(candidate, hypothesis):
  """The candidate from its last article on, as the hypothesis writes it, and in no genitive."""
  words = candidate.split(' ')
  words = words[max([words.index(article) for article in _ARTICLES if article in words] or [0]) :]
  pattern = ' '.join(re.escape(word) + '[.,?!]?' for word in words)
  match = re.search(pattern, hypothesis, re.IGNORECASE)
  if not match:
    raise errors.UserError(sources.in_graph(f'{candidate!r} is not in {hypothesis!r}'))
  found = match[0].rstrip() if match[0][-1:] not in tuple(_SENTENCE_SIGNS) else match[0][:-1]
  return re.sub("('|'s)$", '', found)


def is_referent(text: str, *, example=None, is_target: bool = False, **unused_kwargs) -> int:
  """Post-processes what a model takes a pronoun to stand for.

  Args:
    text: the decoded text.
    example: the example, with `label` and the referent in question as `targets_pretokenized`.
    is_target: whether to give the label.

  Returns:
    1 if it is the referent in question, 0 if another, -1 if there is no text. Case and determiners do not count, and
    one may have words that the other lacks.
  """
  if is_target:
    return int(example['label'])
  predicted = _without_determiners(text)
  if not predicted:
    return -1
  referent = _without_determiners(tf.compat.as_text(example['targets_pretokenized']))
  if ("'" in predicted) != ("'" in referent):  # Bob is not Bob's hat.
    return 0
  predicted, referent = set(predicted.split(' ')), set(referent.split(' '))
  return int(predicted <= referent or referent <= predicted)


def _without_determiners(text):
  words = text.strip().lower().split(' ')
  return ' '.join(word for word in words if word not in _DETERMINERS)
