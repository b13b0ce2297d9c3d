"""What is asked of a model, and where the questions come from, in words that a command line can say."""

import dataclasses
from collections.abc import Sequence

from t5x_lite import errors
from t5x_lite.decoding import options

MODES = ('predict', 'score', 'rank', 'encode')
POOLINGS = ('mean', 'none')
FORMATS = ('text', 'jsonl')
BAD_LINES = ('record', 'stop')


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of a model.

  Attributes:
    mode: 'predict', what it answers; 'score', how probable it finds the targets; 'rank', which of some labels it finds
      most probable; 'encode', the states of its encoder.
    decoding: how answers are decoded.
    labels: texts to rank, for questions that have none of their own.
    token_scores: whether to tell the log-probability of each token.
    pooling: of the states: their 'mean' over the tokens of an input, EOS included, as in sentence-T5 (Ni et al. 2022,
      section 3.1), or 'none'.
  """

  mode: str = 'predict'
  decoding: options.DecodingConfig = options.DecodingConfig()
  labels: Sequence[str] = ()
  token_scores: bool = False
  pooling: str = 'mean'

  def __post_init__(self):
    _check_choice('MODE', self.mode, MODES)
    _check_choice('POOLING', self.pooling, POOLINGS)
    given = {name: f'{name}={value!r}' for name, value in self.decoding.changes().items()}
    for holds, what, modes in (
      (self.labels, f'LABELS={self.labels!r}', ('rank',)),
      (self.token_scores, 'TOKEN_SCORES=True', ('predict', 'score')),
      (self.pooling != 'mean', f'POOLING={self.pooling!r}', ('encode',)),
      *((True, what, ('predict',)) for what in given.values()),
    ):
      if holds and self.mode not in modes:
        wanted = ' or '.join(f'MODE={mode!r}' for mode in modes)
        raise errors.UserError(f'{what} does nothing with MODE={self.mode!r}: it is for {wanted}')

  @property
  def needs(self) -> Sequence[str]:
    """The fields that a question must have."""
    return {'score': ('inputs', 'targets'), 'rank': ('inputs', 'labels')}.get(
      self.mode, ('inputs',)
    )


@dataclasses.dataclass(frozen=True)
class Source:
  """Where questions come from.

  Attributes:
    input_file: file in UTF-8, a question a line; '-', or no task either, is standard input.
    file_format: of the lines, 'text' or 'jsonl'; None goes by the name: .jsonl is, others are not.
    bad_lines: whether to 'record' what cannot be asked in place of its answer, or to 'stop'.
    cut_long_inputs: whether inputs that are too long are cut, and not refused.
    mixture_or_task_name: task whose examples are the questions, in place of a file.
    split: split of the task.
    num_examples: the most questions, from the start; None is all.
  """

  input_file: str | None = None
  file_format: str | None = None
  bad_lines: str = 'record'
  cut_long_inputs: bool = False
  mixture_or_task_name: str | None = None
  split: str = 'validation'
  num_examples: int | None = None

  def __post_init__(self):
    if self.file_format is not None:
      _check_choice('INPUT_FORMAT', self.file_format, FORMATS)
    _check_choice('BAD_LINES', self.bad_lines, BAD_LINES)
    if self.input_file is not None and self.mixture_or_task_name is not None:
      raise errors.UserError(
        f'INPUT={self.input_file} and MIXTURE_OR_TASK_NAME={self.mixture_or_task_name} exclude '
        'each other: give one of them'
      )

  @property
  def is_standard_input(self) -> bool:
    return self.mixture_or_task_name is None and self.input_file in (None, '-')

  @property
  def is_jsonl(self) -> bool:
    by_name = (self.input_file or '').endswith(('.jsonl', '.ndjson'))
    return by_name if self.file_format is None else self.file_format == 'jsonl'


def _check_choice(name, value, choices):
  if value not in choices:
    raise errors.UserError(f'{name}={value!r} may be {", ".join(map(repr, choices))}')
