"""A file of answers that is written as they come, and goes on where it was stopped.

While OUTPUT is being made there is a folder OUTPUT.partial beside it:

  settings.json      what the answers depend on; others do not go on here
  answers-0          one line for each answer, in any order: its number, a checksum of its question, the answer
  states-0           of MODE='encode', float32; their lines say which are whose

What is an error is kept too, with -1 in place of the checksum, and asked again by whoever goes on. Each host of a job
appends to files of its own number. When all is answered the first host puts the answers in order into OUTPUT, which so
appears whole, and removes the folder. What is killed leaves at most one broken line.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from t5x_lite import errors, sharding
from t5x_lite.evaluation import files, requests, runs
from t5x_lite.evaluation.questions import Question


def settings_of(
  run: runs.Run, request: requests.Request, source: requests.Source, lengths: Mapping[str, int]
) -> dict[str, Any]:
  """Returns what answers depend on but for their questions; JSON-able."""
  decoding = dataclasses.asdict(request.decoding)
  decoding['transforms'] = [_name(transform) for transform in request.decoding.transforms]
  return {
    'MODEL_DIR': str(run.folder),
    'CHECKPOINT': run.steps[0],
    'DTYPE': run.config.dtype,
    'WEIGHTS': run.weights,
    'TASK_FEATURE_LENGTHS': {name: lengths[name] for name in sorted(lengths)},
    'MODE': request.mode,
    'LABELS': list(request.labels),
    'TOKEN_SCORES': request.token_scores,
    'POOLING': request.pooling,
    'CUT_LONG_INPUTS': source.cut_long_inputs,
    **decoding,
  }


def _name(transform):
  function = getattr(transform, 'func', transform)  # Of a functools.partial.
  return f'{function.__module__}.{function.__qualname__}'


_OF_ERROR = -1


class _Line(NamedTuple):
  """Where an answer is: the bytes from `start` to `end` of a file of answers."""

  number: int
  checksum: int
  path: pathlib.Path
  start: int
  end: int


class Parts:
  """Answers to some questions, on disk.

  Attributes:
    folder: what holds them until all are there.
    num_answered: answers that were there when it was opened.
  """

  def __init__(self, output: str, settings: Mapping[str, Any], host: int = 0):
    """Opens what is there, or begins.

    Args:
      output: the file to be written in the end.
      settings: JSON-able, what the answers depend on.
      host: this host's number.

    Raises:
      UserError: what is there has other settings, or another process writes it, or it cannot be written.
    """
    self._output = pathlib.Path(output)
    self.folder = self._output.with_name(f'{self._output.name}.partial')
    self._host = host
    self._asked = {}
    self._total = 0
    if self._output.is_dir():
      raise errors.UserError(f'cannot write OUTPUT={output}: it is a folder')
    try:
      if host == 0:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check(json.loads(json.dumps(settings)))
      sharding.wait_for_hosts('settings')
      lines = list(self._lines())
      sharding.wait_for_hosts('answers')  # Only now may anybody add some.
      self._answers = open(self.folder / f'answers-{host}', 'ab')
      self._states = open(self.folder / f'states-{host}', 'ab')
      fcntl.flock(self._answers, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.UserError(
        f'OUTPUT={output} is being written by another process: wait for it, or name another file'
      ) from None
    except OSError as error:
      raise self._cannot_write(error) from None
    mine = [line.end for line in lines if line.path.name == f'answers-{host}']
    self._answers.truncate(max(mine, default=0))
    answered = (line for line in lines if line.checksum != _OF_ERROR)
    self._checksums = {line.number: line.checksum for line in answered}
    self.num_answered = len(self._checksums)

  def _cannot_write(self, error):
    return errors.UserError(f'cannot write OUTPUT={self._output}: {error.strerror}')

  def _check(self, settings):
    path = self.folder / 'settings.json'
    if not path.exists():
      with files.atomic_file(path) as file:
        json.dump(settings, file, indent=2)
      return
    begun = json.loads(path.read_text(encoding='utf-8'))
    for name in sorted({*begun, *settings}):
      if begun.get(name) != settings.get(name):
        raise errors.UserError(
          f'{self.folder} was begun with {name}={begun.get(name)!r}, but now it is {settings.get(name)!r}: give the '
          'same to go on, or remove that folder to begin anew'
        )

  def _lines(self) -> Iterator[_Line]:
    for path in sorted(self.folder.glob('answers-*')):
      end = 0
      with open(path, 'rb') as file:
        for line in file:
          start, end = end, end + len(line)
          if line.endswith(b'\n'):
            number, checksum, _ = line.split(b' ', 2)
            yield _Line(int(number), int(checksum), path, start, end)

  def unanswered(self, questions: Iterable[tuple[int, Question]]) -> Iterator[tuple[int, Question]]:
    """Yields the questions without an answer so far.

    Raises:
      UserError: one with an answer is not the one that was answered.
    """
    for number, question in questions:
      self._total += 1
      checksum = zlib.crc32(json.dumps(question.fields).encode())
      answered = self._checksums.get(number)
      if answered is None:
        self._asked[number] = checksum
        yield number, question
      elif answered != checksum:
        raise errors.UserError(
          f'input {number + 1} is not the one that {self.folder} has an answer to: give the same inputs to go on, or '
          'remove that folder to begin anew'
        )

  def add(self, number: int, answer: Mapping[str, Any], is_mine: bool = True):
    """Keeps the answer to one of the unanswered questions, if it is this host that does."""
    checksum = _OF_ERROR if 'error' in answer else self._asked[number]
    del self._asked[number]
    if not is_mine:
      return
    answer = dict(answer)
    try:
      if (states := answer.get('states')) is not None:
        answer['states'] = [f'states-{self._host}', self._states.tell(), *states.shape]
        self._states.write(states.tobytes())
        self._states.flush()
      text = json.dumps(answer, ensure_ascii=False)
      self._answers.write(f'{number} {checksum} {text}\n'.encode())
      self._answers.flush()
    except OSError as error:
      raise self._cannot_write(error) from None

  def finish(self, as_arrays: bool):
    """Writes the file and removes the folder, on the first host when all have come here.

    Args:
      as_arrays: whether the answers are states: the file becomes an npz of 'states', float32 [inputs, emb_dim], or
        [tokens of all inputs, emb_dim] and 'lengths', int32 [inputs]; and of 'errors', a text for each input, empty
        where there is none. The state of an input with an error is NaN.
    """
    self.close()
    sharding.wait_for_hosts('all answered')
    if self._host > 0:
      return
    try:
      with files.atomic_file(self._output, 'wb') as file:
        if as_arrays:
          self._write_arrays(file)
        else:
          file.writelines(self._in_order())
    except OSError as error:
      raise self._cannot_write(error) from None
    shutil.rmtree(self.folder)

  def close(self):
    """Lets others go on with it."""
    for file in (self._answers, self._states):
      with contextlib.suppress(OSError):  # Of what did not fit on the disk, which `add` has told.
        file.close()

  def _in_order(self) -> Iterator[bytes]:
    """Yields the answers, a line of JSON each."""
    # Where there are an error and an answer, the answer comes after it.
    by_number = {line.number: line for line in sorted(self._lines())}
    lines = [line for number, line in by_number.items() if number < self._total]
    with contextlib.ExitStack() as stack:
      opened = {path: stack.enter_context(open(path, 'rb')) for path in {x.path for x in lines}}
      for line in lines:
        opened[line.path].seek(line.start)
        yield opened[line.path].read(line.end - line.start).split(b' ', 2)[2]

  def _write_arrays(self, file):
    found = [
      (each.get('states'), each.get('error', '')) for each in map(json.loads, self._in_order())
    ]
    shapes = [place[2:] for place, _ in found if place]
    width = shapes[0][-1] if shapes else 0
    is_pooled = all(len(shape) == 1 for shape in shapes)
    lengths = [1 if is_pooled else place[2] if place else 0 for place, _ in found]
    with zipfile.ZipFile(file, 'w') as archive:
      # Piece by piece, since together they may be larger than memory.
      with archive.open('states.npy', 'w', force_zip64=True) as entry:
        header = {'descr': '<f4', 'fortran_order': False, 'shape': (sum(lengths), width)}
        np.lib.format.write_array_header_1_0(entry, header)
        for (place, _), length in zip(found, lengths, strict=True):
          entry.write(self._states_at(place, length * width))
      if not is_pooled:
        _write_array(archive, 'lengths', np.array(lengths, np.int32))
      _write_array(archive, 'errors', np.array([error for _, error in found], str))

  def _states_at(self, place, size):
    """The bytes of `size` states; NaN where there are none."""
    if not place:
      return np.full(size, np.nan, '<f4').tobytes()
    name, start, *_ = place
    return np.fromfile(self.folder / name, '<f4', size, offset=start).tobytes()


def _write_array(archive, name, array):
  with archive.open(f'{name}.npy', 'w') as entry:
    np.save(entry, array)
