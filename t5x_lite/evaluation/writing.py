"""Answers to where they belong: standard output as they come, or a file that is complete in the end."""

import contextlib
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from t5x_lite.evaluation import answers
from t5x_lite.evaluation.parts import Parts
from t5x_lite.monitoring import progress as monitoring

Answered = Iterable[list[tuple[int, dict[str, Any]]]]


def is_stream(output: str) -> bool:
  """Returns whether OUTPUT takes answers one after the other and keeps nothing: '-', a pipe, a device."""
  path = pathlib.Path(output)
  return output == '-' or (path.exists() and not path.is_file() and not path.is_dir())


def to_stream(answered: Answered, output: str, total: int | None):
  """Writes JSON lines in the order of the questions, each as soon as those before it are answered.

  Args:
    answered: from `answers.answer`.
    output: see `is_stream`.
    total: the number of questions, if it is known.
  """
  if jax.process_index() > 0:
    output = os.devnull  # All hosts have all answers; the first one writes them.
  opened = contextlib.nullcontext(sys.stdout) if output == '-' else open(output, 'w')
  with opened as file:
    for each in answers.in_order(_told(answered, total, 0, is_quiet=file.isatty())):
      file.write(json.dumps(each, ensure_ascii=False) + '\n')
      file.flush()


def to_parts(answered: Answered, parts: Parts, total: int | None, as_arrays: bool):
  """Writes a file, see `Parts`; in a job of several hosts each keeps its share of the batches.

  Args:
    answered: from `answers.answer`, of the questions that `parts` has no answer to.
    parts: what there is.
    total: the number of questions, if it is known.
    as_arrays: whether the answers are states.
  """
  host = itertools.cycle(range(jax.process_count()))
  try:
    for some in _told(answered, total, parts.num_answered):
      is_mine = next(host) == jax.process_index()
      for number, answer in some:
        parts.add(number, answer, is_mine)
    parts.finish(as_arrays)
  except BaseException:
    parts.close()
    print(
      f'the answers so far are kept in {parts.folder}: the same command goes on from there',
      file=sys.stderr,
    )
    raise


def _told(answered, total, num_before, is_quiet=False) -> Iterator[list[tuple[int, Mapping]]]:
  """Passes answers on, and tells on standard error how far it is and what could not be answered."""
  if is_quiet or jax.process_index() > 0:
    yield from answered
    return
  start = time.monotonic()
  count, first_error, num_errors = num_before, None, 0
  with monitoring.Progress(total, num_before, 'infer', unit='example') as progress:
    if num_before:
      progress.message(f'{num_before:,} examples were answered before')
    for some in answered:
      yield some
      found = [answer['error'] for _, answer in some if 'error' in answer]
      num_errors += len(found)
      first_error = first_error or next(iter(found), None)
      count += len(some)
      progress.update(count)
    seconds = max(time.monotonic() - start, 1e-9)
    speed = (count - num_before) / seconds
    progress.message(f'{count - num_before:,} examples in {seconds:.1f} s, {speed:.1f} examples/s')
    if num_errors:
      progress.message(
        f'{num_errors:,} of them have an error in place of an answer, the first: {first_error}'
      )
