"""From questions to answers: what a model decodes, how probable it finds texts, or how it encodes them."""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t5x_lite import errors
from t5x_lite.data import batches as data_batches
from t5x_lite.evaluation import buckets, inference, requests
from t5x_lite.evaluation.questions import Question, Tokenizer

WINDOW = 16


@dataclasses.dataclass(frozen=True)
class _Batch:
  """Questions that are answered at once, of inputs that are padded to one length."""

  numbers: Sequence[int]
  questions: Sequence[Question]
  num_rows: int
  inputs_length: int

  def rows(self, ids: Iterable[np.ndarray], length: int) -> np.ndarray:
    """Returns int32 [num_rows, length]; rows that fill the batch up stay zero."""
    rows = np.zeros((self.num_rows, length), np.int32)
    for row, each in zip(rows, ids, strict=False):
      row[: len(each)] = each
    return rows

  @property
  def numbers_to_draw(self) -> list[int]:
    rows = zip(self.numbers, self.questions, strict=True)
    return [number if each.number is None else each.number for number, each in rows]

  @property
  def inputs(self) -> np.ndarray:
    return self.rows((question.inputs for question in self.questions), self.inputs_length)


def answer(
  questions: Iterable[tuple[int, Question]],
  request: requests.Request,
  model: inference.Inference,
  params,
  tokenizer: Tokenizer,
  batch_size: int,
  window: int = WINDOW,
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
  """Answers questions in batches of like length, and yields each batch when it is answered.

  Args:
    questions: what to answer, numbered; what is drawn for a question depends on its number.
    request: what is asked.
    model: the model.
    params: its parameters.
    tokenizer: the one that the questions are from.
    batch_size: questions at a time.
    window: batches of questions that are read before they are sorted by length.

  Yields:
    (number, answer) of some questions. An answer has the question's fields and
      to predict, 'prediction' and 'score', see `loop.Decoded`, and if several answers are asked for all of them, the
        best first, as 'answers';
      to score, 'score', the log-probability of the targets, EOS included, in nats;
      to rank, as to predict, with the score of each label;
      to encode, 'states', float32 [emb_dim], or [length, emb_dim] without pooling;
    or 'error'.

  Raises:
    UserError: the model cannot be asked that.
  """
  respond = _responder(request, model, params, tokenizer)
  refused = collections.deque()
  waiting = collections.deque()

  def batches():
    longest = tokenizer.lengths['inputs']
    for batch in _batches(questions, batch_size, window, longest, refused):
      waiting.append(batch)
      yield batch

  for results in respond(batches()):
    batch = waiting.popleft()
    rows = zip(batch.numbers, batch.questions, results, strict=True)
    answered = [(number, {**question.fields, **result}) for number, question, result in rows]
    yield [*_all_of(refused), *answered]
  if refused:
    yield list(_all_of(refused))


def _all_of(refused):
  while refused:
    number, question = refused.popleft()
    yield number, {**question.fields, 'error': question.error}


def _batches(questions, batch_size, window, longest, refused):
  """Puts questions that can be answered into batches; appends the others to `refused`."""
  questions = iter(questions)
  while read := list(itertools.islice(questions, window * batch_size)):
    # A prefix is decoded as part of the answer, whose length is bounded, so all of a batch are as long.
    groups = collections.defaultdict(list)
    for number, question in read:
      if question.error is None:
        groups[len(question.prefix)].append((number, question))
      else:
        refused.append((number, question))
    for _, group in sorted(groups.items()):
      lengths = [len(question.inputs) for _, question in group]
      for indices, length in buckets.batches(lengths, batch_size, longest, mixed=True):
        numbers, chosen = zip(*(group[i] for i in indices), strict=True)
        yield _Batch(numbers, chosen, batch_size, length)


def in_order(answered: Iterable[list[tuple[int, dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
  """Yields answers by their numbers, from 0, each as soon as the ones before are there."""
  waiting, number = {}, 0
  for some in answered:
    waiting.update(some)
    while number in waiting:
      yield waiting.pop(number)
      number += 1


# How a request is met: functions of an iterable of batches, which yield what is told of each of their questions.


def _responder(
  request: requests.Request, model, params, tokenizer: Tokenizer
) -> Callable[[Iterable[_Batch]], Iterator[list[Mapping[str, Any]]]]:
  if request.mode == 'predict':
    decoder = request.decoding.resolve(tokenizer.vocabulary, tokenizer.lengths['targets'])
    return functools.partial(
      _predict, model, params, tokenizer.vocabulary, decoder, request.token_scores
    )
  length = tokenizer.lengths['targets']
  if request.mode == 'score':
    return functools.partial(
      _score_tokens if request.token_scores else _score, model, params, length
    )
  if request.mode == 'rank':
    return functools.partial(_rank, model, params, length)
  if not model.config.has_encoder:
    raise errors.UserError("MODE='encode' needs an encoder, but the model is a language model")
  return functools.partial(_encode, model, params, request.pooling)


def _predict(model, params, vocabulary, decoder, token_scores, batches):
  def prompts():
    for batch in batches:
      numbers = np.zeros(batch.num_rows, np.int32)
      numbers[: len(batch.numbers)] = batch.numbers_to_draw
      seeds = None
      if batch.questions[0].seed is not None:  # All have one, or none has.
        seeds = np.zeros(batch.num_rows, np.int32)
        seeds[: len(batch.numbers)] = [question.seed for question in batch.questions]
      length = len(batch.questions[0].prefix)
      prefix = batch.rows((each.prefix for each in batch.questions), length) if length else None
      sizes.append(len(batch.questions))
      yield inference.Prompts(batch.inputs, numbers, prefix, seeds)

  sizes = collections.deque()
  for decoded in model.predict(params, prompts(), decoder):
    yield [
      _told(jax.tree.map(lambda x, i=i: x[i], decoded), vocabulary, token_scores)
      for i in range(sizes.popleft())
    ]


def _told(decoded, vocabulary, token_scores):
  """What is said of the answers to one question, the arrays of a `Decoded` without their first axis."""
  found = []
  rows = zip(decoded.tokens, decoded.scores, decoded.token_scores, strict=True)
  for tokens, score, scores in rows:
    if not np.isfinite(score):  # Beam search may find fewer than were asked for.
      continue
    told = {'prediction': vocabulary.decode(tokens.tolist()), 'score': float(score)}
    if token_scores:
      told |= _of_tokens(tokens[tokens > 0], scores[tokens > 0])
    found.append(told)
  if not found:
    return {'error': 'no answer meets all constraints'}
  return found[0] if len(decoded.scores) == 1 else {**found[0], 'answers': found}


def _of_tokens(tokens, scores):
  return {'token_ids': tokens.tolist(), 'token_scores': list(map(float, scores))}


def _of_targets(batch, targets, model, targets_length):
  """Features of a batch with some targets, a row of ids for each of its questions."""
  length = buckets.bucket(max(map(len, targets)), targets_length)
  return data_batches.of_tokens(batch.inputs, batch.rows(targets, length), model.config.has_encoder)


def _score(model, params, targets_length, batches):
  def features():
    for batch in batches:
      sizes.append(len(batch.questions))
      targets = [question.targets for question in batch.questions]
      yield _of_targets(batch, targets, model, targets_length)

  sizes = collections.deque()
  for scores in model.score(params, features()):
    yield [{'score': float(score)} for score in scores[: sizes.popleft()]]


def _score_tokens(model, params, targets_length, batches):
  def features():
    for batch in batches:
      targets = [question.targets for question in batch.questions]
      waiting.append(targets)
      yield _of_targets(batch, targets, model, targets_length)

  waiting = collections.deque()
  for scores, is_target in model.score_tokens(params, features()):
    rows = zip(waiting.popleft(), scores, is_target, strict=False)
    told = ((targets, scores[is_target > 0]) for targets, scores, is_target in rows)
    yield [{'score': math.fsum(each), **_of_tokens(targets, each)} for targets, each in told]


def _rank(model, params, targets_length, batches):
  """Scores the first label of each question of a batch, then the second, and so on."""

  def features():
    for batch in batches:
      labels = [list(question.labels.values()) for question in batch.questions]
      waiting.append((batch, max(map(len, labels))))
      for i in range(waiting[-1][1]):
        targets = [each[min(i, len(each) - 1)] for each in labels]
        yield _of_targets(batch, targets, model, targets_length)

  waiting = collections.deque()
  scored = model.score(params, features())
  for first in scored:
    batch, most = waiting.popleft()
    scores = np.stack([first, *itertools.islice(scored, most - 1)], axis=1)  # [rows, labels]
    yield [_ranked(*each) for each in zip(batch.questions, scores, strict=False)]


def _ranked(question, scores):
  scored = zip(question.labels, map(float, scores), strict=False)
  found = [{'prediction': label, 'score': score} for label, score in scored]
  found.sort(key=lambda each: -each['score'])
  return {**found[0], 'answers': found}


def _encode(model, params, pooling, batches):
  def inputs():
    for batch in batches:
      waiting.append([len(question.inputs) for question in batch.questions])
      yield batch.inputs

  waiting = collections.deque()
  for states in model.encode(params, inputs(), pooling == 'mean'):
    rows = zip(waiting.popleft(), states, strict=False)
    yield [{'states': states if pooling == 'mean' else states[:length]} for length, states in rows]
