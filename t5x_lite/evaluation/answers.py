"""From questions, lines of text or a task's inputs, to answers, JSON lines in their order."""

import collections
import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from t5x_lite import errors, sharding
from t5x_lite.decoding import options
from t5x_lite.evaluation import evaluator, files, inference

_SECONDS_BETWEEN_LINES = 10


@dataclasses.dataclass(frozen=True)
class Question:
  """One input.

  Attributes:
    texts: what the answer repeats: 'inputs', and 'targets' where they are known.
    tokens: ids of the input, EOS included; None if it cannot be answered.
    error: why it cannot.
  """

  texts: Mapping[str, str]
  tokens: np.ndarray | None
  error: str | None = None


def read_lines(path: str) -> Iterator[str]:
  """Opens a text file, or standard input for '-', and yields its lines as they come.

  Raises:
    UserError: there is no such file, at once; or a line is not UTF-8, when it is reached.
  """
  if path == '-':
    if sys.stdin.isatty():
      print('one input a line; Ctrl-D ends', file=sys.stderr, flush=True)
    return _decoded_lines(sys.stdin.buffer, 'standard input')
  try:
    return _decoded_lines(open(path, 'rb'), path)
  except OSError as error:
    raise errors.UserError(f'cannot read INPUT={path}: {error.strerror}') from None


def _decoded_lines(file, name):
  with file:
    for number, line in enumerate(file, start=1):
      try:
        # Some editors begin a file with a mark that says that it is UTF-8.
        yield line.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r\n')
      except UnicodeDecodeError as error:
        raise errors.UserError(
          f'line {number} of {name} is not UTF-8 (byte {error.start + 1}): convert the file, '
          'for example with iconv -t utf-8'
        ) from None


def from_lines(
  lines: Iterable[str], vocabulary, inputs_length: int, add_eos: bool = True
) -> Iterator[Question]:
  """Tokenizes lines and cuts what is too long; says in the end how many were cut.

  Args:
    lines: one input each; an empty one is a question with an error.
    vocabulary: the run's `seqio.Vocabulary`.
    inputs_length: the most tokens, EOS included.
    add_eos: whether inputs end in EOS; those that a model is to go on with do not.
  """
  eos = [vocabulary.eos_id] if add_eos else []
  most = inputs_length - len(eos)
  count = cut = 0
  for count, line in enumerate(lines, start=1):
    if not line.strip():
      yield Question({'inputs': line}, None, f'line {count} is empty')
      continue
    tokens = vocabulary.encode(line)
    cut += len(tokens) > most
    yield Question({'inputs': line}, np.array([*tokens[:most], *eos]))
  if cut:
    print(
      f'warning: {cut} of {count} lines were longer than {inputs_length} tokens and were cut',
      file=sys.stderr,
    )


def from_task(config: evaluator.EvaluationConfig, has_encoder: bool) -> Iterator[Question]:
  """Yields the examples of a task, or of every task of a mixture in turn."""
  for texts, tokens in evaluator.examples(config, has_encoder):
    yield Question(texts, tokens)


def answer(
  questions: Iterable[Question],
  model: inference.Inference,
  params,
  vocabulary,
  inputs_length: int,
  decoder: options.Decoder,
  batch_size: int | None,
) -> Iterator[dict[str, str | float]]:
  """Yields an answer to each question, in order.

  Args:
    questions: what to answer.
    model: the model.
    params: its parameters.
    vocabulary: the run's `seqio.Vocabulary`.
    inputs_length: most tokens of an input.
    decoder: how to answer.
    batch_size: questions at a time. None answers each before the next is read.

  Yields:
    The question's texts with 'prediction' and 'score', see `loop.Decoded`, and of several answers
    with all of them, the best first, as 'answers'; or with 'error'.
  """

  def answer_chunks(chunks, num_rows):
    waiting = collections.deque()

    def prompts():
      for chunk in chunks:
        waiting.append(chunk)
        inputs = padded([question for _, question in chunk], (num_rows, inputs_length))
        numbers = np.zeros(num_rows, np.int32)
        numbers[: len(chunk)] = [number for number, _ in chunk]
        yield inference.Prompts(inputs, numbers)

    for decoded in model.predict(params, prompts(), decoder):
      rows = zip(waiting.popleft(), decoded.tokens, decoded.scores, strict=False)
      for (_, question), tokens, scores in rows:
        if question.error is not None:
          yield {**question.texts, 'error': question.error}
        else:
          yield {**question.texts, **_told(tokens, scores, vocabulary)}

  numbered = enumerate(questions)
  if batch_size is not None:
    yield from answer_chunks(_chunks(numbered, batch_size), batch_size)
    return
  # The fewest rows that can be divided over the devices.
  num_rows = math.prod(model.mesh.shape[axis] for axis in sharding.BATCH_AXES)
  for question in numbered:
    yield from answer_chunks([[question]], num_rows)


def _told(tokens, scores, vocabulary):
  """What is said of the answers to one question, [answers, length] and [answers]."""
  found = [
    {'prediction': vocabulary.decode(row.tolist()), 'score': float(score)}
    for row, score in zip(tokens, scores, strict=True)
    if np.isfinite(score)  # Beam search may find fewer than were asked for.
  ]
  if not found:
    return {'error': 'no answer meets all constraints'}
  return found[0] if len(scores) == 1 else {**found[0], 'answers': found}


def write(answers: Iterable[Mapping], path: str, *, show_progress: bool = True):
  """Writes JSON lines to a file, which appears when it is complete, or to standard output for '-'.

  Args:
    answers: JSON-able objects.
    path: the file.
    show_progress: tell the number and speed on standard error.
  """
  if pathlib.Path(path).is_dir():
    raise errors.UserError(f'cannot write OUTPUT={path}: it is a folder')
  output = contextlib.nullcontext(sys.stdout) if path == '-' else files.atomic_file(path)
  try:
    with output as file, _Progress(show_progress) as progress:
      for each in answers:
        file.write(json.dumps(each, ensure_ascii=False) + '\n')
        if path == '-':
          file.flush()
        progress.add_one()
  except (FileExistsError, NotADirectoryError, PermissionError) as error:
    raise errors.UserError(f'cannot write OUTPUT={path}: {error.strerror}') from None


def _chunks(questions, size):
  questions = iter(questions)
  while chunk := list(itertools.islice(questions, size)):
    yield chunk


def padded(questions: Iterable[Question], shape: tuple[int, int]) -> np.ndarray:
  """Returns the tokens of the questions, int32 of `shape`; a row without any stays zero."""
  rows = np.zeros(shape, np.int32)
  for row, question in zip(rows, questions, strict=False):
    if question.tokens is not None:
      row[: len(question.tokens)] = question.tokens
  return rows


class _Progress:
  """Counts examples: a bar on a terminal, a line now and then in a log, and one at the end."""

  def __init__(self, enabled):
    self._enabled = enabled
    self._count = 0
    self._start = self._last_line = time.monotonic()
    self._bar = None
    if enabled and sys.stderr.isatty():
      import tqdm

      self._bar = tqdm.tqdm(unit=' examples', file=sys.stderr, leave=False)

  def add_one(self):
    self._count += 1
    if self._bar is not None:
      self._bar.update()
    elif self._enabled and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
      self._last_line = time.monotonic()
      self._print()

  def _print(self):
    seconds = time.monotonic() - self._start
    speed = self._count / max(seconds, 1e-9)
    print(
      f'{self._count:,} examples in {seconds:.1f} s ({speed:.1f} examples/s)',
      file=sys.stderr,
      flush=True,
    )

  def __enter__(self):
    return self

  def __exit__(self, exception_type, *unused):
    if self._bar is not None:
      self._bar.close()
    if self._enabled and exception_type is None:
      self._print()
