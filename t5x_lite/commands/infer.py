"""`t5x-lite infer`: what a model answers to lines of text, or to the inputs of a task.

Answers are JSON lines in the order of the inputs:

  {"inputs": "sst2 sentence: a joy to watch", "prediction": "positive", "score": -0.02}

`score` is the sum of the log-probabilities of the prediction's tokens, or beam search's own. Of
several answers all are told, the best first. A task's examples have their "targets" too. An empty
line is answered by {"inputs": "", "error": "line 3 is empty"}, so that answer N always belongs to
line N.
"""

import typing
from collections.abc import Mapping

if typing.TYPE_CHECKING:
  from t5x_lite.decoding.options import DecodingConfig
  from t5x_lite.sharding import MeshConfig

HELP = 'answer a text file, standard input or a task with what a model predicts'
USES_GIN = True
DEFAULT_GIN_FILES = ('runs/infer.gin',)


def add_arguments(parser):
  """Adds nothing: inference is configured by gin."""
  del parser


def run(args):
  """Answers as the parsed gin configuration says."""
  del args
  from t5x_lite import configuration

  configuration.configured(infer)()


def infer(
  *,
  model_dir: str,
  mesh: 'MeshConfig',
  decoding: 'DecodingConfig',
  input_file: str | None = None,
  mixture_or_task_name: str | None = None,
  split: str = 'validation',
  num_examples: int | None = None,
  output_file: str = '-',
  checkpoint: str | int = 'latest',
  task_feature_lengths: Mapping[str, int] | None = None,
  batch_size: int = 64,
  dtype: str | None = None,
  base_checkpoint_path: str | None = None,
):
  """Predicts and writes JSON lines.

  Args:
    model_dir: folder of the run.
    mesh: the devices.
    decoding: how answers are decoded.
    input_file: text file in UTF-8, one input a line; '-' for standard input, which is also
      the default where no task is given. On a terminal every line is answered at once.
    mixture_or_task_name: task whose inputs to answer.
    split: split of the task.
    num_examples: the most inputs to answer, or None for all.
    output_file: JSON lines, complete or not there at all; '-' for standard output.
    checkpoint: 'latest' or a step.
    task_feature_lengths: most tokens of 'inputs' and 'targets'; None for those of the run.
    batch_size: inputs at a time, over all devices.
    dtype: of the activations, or None for the run's own.
    base_checkpoint_path: where the base of checkpoints without it is now, or None.
  """
  import itertools
  import os
  import sys

  import jax

  import t5x_lite.tasks  # noqa: F401 - registers them
  from t5x_lite import errors, sharding
  from t5x_lite.evaluation import answers, evaluator, runs

  if input_file is not None and mixture_or_task_name is not None:
    raise errors.UserError(
      f'INPUT={input_file} and MIXTURE_OR_TASK_NAME={mixture_or_task_name} exclude each other: '
      'give one of them'
    )
  if checkpoint != 'latest' and not isinstance(checkpoint, int):
    raise errors.UserError(
      f"CHECKPOINT={checkpoint!r} is for `t5x-lite eval`: give 'latest' or a step"
    )
  opened = runs.open_run(model_dir, checkpoint, dtype=dtype, base_path=base_checkpoint_path)
  lengths = opened.lengths(task_feature_lengths)
  vocabulary = opened.load_vocabulary()
  decoder = decoding.resolve(vocabulary, lengths['targets'])
  interactive = False
  if mixture_or_task_name is not None:
    names = opened.find_tasks(mixture_or_task_name)
    config = evaluator.EvaluationConfig(names, lengths, split, batch_size, num_examples)
    questions = answers.from_task(config, opened.config.has_encoder)
  else:
    lines = itertools.islice(answers.read_lines(input_file or '-'), num_examples)
    interactive = input_file in (None, '-') and sys.stdin.isatty()
    if interactive:
      lines = filter(str.strip, lines)  # Someone only pressed Return.
    # A model that knows no inputs goes on with the line as if it were the start of a text.
    add_eos = 'inputs' in opened.task_feature_lengths
    questions = answers.from_lines(lines, vocabulary, lengths['inputs'], add_eos)

  model = opened.model(mesh)
  sharding.check_batch_size(batch_size, model.mesh)
  params = opened.restore(opened.steps[0], model)
  if jax.process_index() > 0:
    output_file = os.devnull  # All hosts have all answers; the first one writes them.
  answers.write(
    answers.answer(
      questions,
      model,
      params,
      vocabulary,
      lengths['inputs'],
      decoder,
      None if interactive else batch_size,
    ),
    output_file,
    # Not in between the answers on one and the same terminal.
    show_progress=output_file != '-' or not sys.stdout.isatty(),
  )
