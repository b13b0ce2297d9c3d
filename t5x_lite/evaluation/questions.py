"""Questions to a model: lines of text, JSON lines, or the examples of a task."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite import errors, remote
from t5x_lite.evaluation import evaluator, predicting, requests, runs

_NO_TOKENS = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Question:
  """One input, and what is asked of it.

  Attributes:
    fields: what the answer repeats, such as 'inputs' and 'targets'; JSON-able.
    inputs: token ids, int32 [inputs_length], EOS included.
    targets: ids to score, EOS included; none where there are none.
    prefix: ids with which its answers begin.
    labels: ids of texts to rank, by text.
    number: what is drawn for it depends on this; None is its place among all questions.
    seed: and on this; None is that of how answers are decoded.
    error: why it cannot be answered; then there are no ids.
  """

  fields: Mapping[str, Any]
  inputs: np.ndarray = dataclasses.field(default_factory=lambda: _NO_TOKENS)
  targets: np.ndarray = dataclasses.field(default_factory=lambda: _NO_TOKENS)
  prefix: np.ndarray = dataclasses.field(default_factory=lambda: _NO_TOKENS)
  labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  number: int | None = None
  seed: int | None = None
  error: str | None = None


class BadQuestion(errors.UserError):
  """A question that cannot be answered; the message goes on after 'line 3 '."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Makes questions of texts.

  Attributes:
    vocabulary: the model's `seqio.Vocabulary`.
    lengths: the most tokens of 'inputs' and 'targets', EOS included.
    add_eos: whether inputs end in EOS; those that a language model is to go on with do not.
    cut: whether inputs that are too long are cut, and not refused.
    needs: fields that a question must have.
    labels: texts to rank where a question has none of its own.
  """

  vocabulary: Any
  lengths: Mapping[str, int]
  add_eos: bool = True
  cut: bool = False
  needs: Sequence[str] = ('inputs',)
  labels: Sequence[str] = ()

  def question(self, fields: Mapping[str, Any]) -> Question:
    """Returns a question.

    Args:
      fields: 'inputs', a text; and if wanted 'targets' and 'prefix', texts, and 'labels', a list of them. Others are
        repeated by the answer.

    Raises:
      BadQuestion: a field is missing or of another type, or a text is too long.
    """
    for name in self.needs:
      if name not in fields and not (name == 'labels' and self.labels):
        there = ', '.join(map(repr, fields)) or 'nothing'
        raise BadQuestion(f'has no field {name!r}, but {there}')
    for name in {*self.needs, 'prefix'} - {'labels'}:
      if not isinstance(fields.get(name, ''), str):
        raise BadQuestion(f'has {name}={fields[name]!r}, which is no text')
    if not fields['inputs'].strip():
      raise BadQuestion('is empty' if len(fields) == 1 else 'has empty inputs')
    return Question(
      fields,
      self._inputs(fields['inputs']),
      self._target('targets', fields['targets']) if 'targets' in self.needs else _NO_TOKENS,
      np.array(self.vocabulary.encode(fields.get('prefix', '')), np.int32),
      self._labels(fields.get('labels', self.labels)) if 'labels' in self.needs else {},
    )

  def _labels(self, labels):
    if not isinstance(labels, (list, tuple)) or not all(isinstance(x, str) for x in labels):
      raise BadQuestion(f'has labels={labels!r}, which are no list of texts')
    return {label: self._target(f'the label {label!r}', label) for label in labels}

  def _inputs(self, text):
    eos = [self.vocabulary.eos_id] if self.add_eos else []
    ids = self.vocabulary.encode(text)
    most = self.lengths['inputs'] - len(eos)
    if len(ids) > most and not self.cut:
      raise BadQuestion(
        f'has inputs of {len(ids) + len(eos)} tokens, but {self.lengths["inputs"]} are the most: raise the length of '
        "'inputs' (TASK_FEATURE_LENGTHS), or cut what is too long (CUT_LONG_INPUTS)"
      )
    return np.array([*ids[:most], *eos], np.int32)

  def _target(self, what, text):
    """Ids of a target, which are never cut: that would be another target."""
    ids = [*self.vocabulary.encode(text), self.vocabulary.eos_id]
    if len(ids) > self.lengths['targets']:
      raise BadQuestion(
        f"has {what} of {len(ids)} tokens, but {self.lengths['targets']} are the most: raise the length of 'targets' "
        '(TASK_FEATURE_LENGTHS)'
      )
    return np.array(ids, np.int32)


def of(
  source: requests.Source, tokenizer: Tokenizer, run: runs.Run
) -> tuple[Iterator[Question], int | None]:
  """Opens a source.

  Args:
    source: where questions come from.
    tokenizer: what tokenizes them.
    run: the one that is asked.

  Returns:
    (the questions, how many there are, if that is known before they have been read).

  Raises:
    UserError: there is no such source, at once; or a line is bad, when it is reached.
  """
  if source.mixture_or_task_name is None:
    questions = _of_file(source, tokenizer)
    return itertools.islice(questions, source.num_examples), _count_lines(source)
  config = evaluator.EvaluationConfig(
    run.find_tasks(source.mixture_or_task_name),
    tokenizer.lengths,
    source.split,
    num_examples=source.num_examples,
  )
  questions = _of_task(config, tokenizer, run.config.has_encoder)
  return questions, evaluator.count_examples(config)


def _of_file(source, tokenizer):
  read = _from_json if source.is_jsonl else _from_text
  if source.is_standard_input:
    return _questions(sys.stdin.buffer, 'standard input', read, tokenizer, source.bad_lines)
  path = source.input_file
  try:
    return _questions(open(remote.local(path), 'rb'), path, read, tokenizer, source.bad_lines)
  except OSError as error:
    raise errors.UserError(f'cannot read INPUT={path}: {error.strerror}') from None


def _count_lines(source):
  path = source.input_file and remote.local(source.input_file)
  if not path or not path.is_file():
    return source.num_examples
  with open(path, 'rb') as file:
    return sum(1 for _ in itertools.islice(file, source.num_examples))


def _questions(file, name, read, tokenizer, bad_lines):
  with file:
    for number, line in enumerate(file, start=1):
      fields = {'inputs': line.decode('utf-8', errors='replace').rstrip('\r\n')}
      try:
        # Some editors begin a file with a mark that says that it is UTF-8.
        text = line.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r\n')
        fields = read(text)
        question = tokenizer.question(fields)
      except UnicodeDecodeError as error:
        question = _bad(fields, f'is not UTF-8 (byte {error.start + 1})', number, name, bad_lines)
      except BadQuestion as error:
        question = _bad(fields, str(error), number, name, bad_lines)
      yield question


def _bad(fields, what, number, name, bad_lines):
  if bad_lines == 'stop':
    raise errors.UserError(f'line {number} of {name} {what}; BAD_LINES=record would go on')
  return Question(fields, error=f'line {number} {what}')


def _from_text(line):
  return {'inputs': line}


def _from_json(line):
  if not line.strip():
    raise BadQuestion('is empty')
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as error:
    raise BadQuestion(f'is no JSON ({error.msg} at column {error.colno})') from None
  if not isinstance(fields, dict):
    raise BadQuestion('is no JSON object')
  try:
    json.dumps(fields, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:  # JSON can name halves of characters.
    half = error.object[error.start]
    raise BadQuestion(
      f'has {half.encode("ascii", "backslashreplace").decode()}, which is no character'
    ) from None
  return fields


def of_texts(
  fields: Sequence[Mapping[str, Any]],
  tokenizer: Tokenizer,
  numbers: Sequence[int] | None = None,
) -> Iterator[Question]:
  """Yields a question for each of some texts in memory; with an error where it cannot be asked.

  Args:
    fields: see `Tokenizer.question`.
    tokenizer: what tokenizes them.
    numbers: of the questions; None for their places.
  """
  for place, each in enumerate(fields):
    try:
      question = tokenizer.question(each)
    except BadQuestion as error:
      question = Question(each, error=f'text {place + 1} {error}')
    yield question if numbers is None else dataclasses.replace(question, number=numbers[place])


def _of_task(config, tokenizer, has_encoder):
  """The examples of a task, or of every task of a mixture in turn; they are cut as the task cuts them."""
  for task, examples in evaluator.examples(config, has_encoder):
    labels = tokenizer.labels or predicting.labels_of(task) or ()
    there = [*task.output_features, *(['labels'] if labels else [])]
    if missing := set(tokenizer.needs) - set(there):
      raise errors.UserError(
        f'{task.name!r} has no {", ".join(sorted(missing))}, but {", ".join(there)}'
      )
    rows = predicting.label_tokens(task, labels, tokenizer.lengths['targets'])
    labels = {label: row[row > 0] for label, row in zip(labels, rows, strict=True)}
    for texts, example in examples:
      targets = example.get('targets', _NO_TOKENS)
      yield Question(texts, example['inputs'], targets, labels=labels)
