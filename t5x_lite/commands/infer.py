"""`t5x-lite infer`: what a model answers to a file, to standard input, or to the inputs of a task.

Answers are JSON lines in the order of the inputs:

  {"inputs": "sst2 sentence: a joy to watch", "prediction": "positive", "score": -0.02}

Lines of text are inputs. JSON lines may also have targets to score, labels to rank and a prefix of the answer, which
repeats whatever they have. What cannot be answered is told where its answer would be, so that answer N always belongs
to input N:

  {"inputs": "", "error": "line 3 is empty"}
"""

import typing
from collections.abc import Mapping

if typing.TYPE_CHECKING:
  from t5x_lite.evaluation.requests import Request, Source
  from t5x_lite.sharding import MeshConfig

HELP = 'answer a file, standard input or a task: predict, score, rank or encode'
USES_GIN = True
DEFAULT_GIN_FILES = ('runs/infer.gin',)


def add_arguments(parser):
  """Adds the flags; the rest is configured by gin."""
  parser.add_argument(
    '--interactive',
    action='store_true',
    help='answer each line that is typed, with options that can be changed in between (/help)',
  )


def run(args):
  """Answers as the parsed gin configuration says."""
  from t5x_lite import configuration

  configuration.configured(infer)(interactive=args.interactive)


def infer(
  *,
  model_dir: str,
  mesh: 'MeshConfig',
  request: 'Request',
  source: 'Source',
  interactive: bool = False,
  output_file: str = '-',
  checkpoint: str | int = 'latest',
  task_feature_lengths: Mapping[str, int] | None = None,
  batch_size: int = 64,
  dtype: str | None = None,
  weights: str | None = None,
  base_checkpoint_path: str | None = None,
):
  """Answers and writes.

  Args:
    model_dir: folder of the run.
    mesh: the devices.
    request: what is asked.
    source: the questions.
    interactive: answer what is typed.
    output_file: JSON lines, or for MODE='encode' npz. It is complete in the end, and goes on where it was stopped. '-'
      is standard output.
    checkpoint: 'latest' or a step.
    task_feature_lengths: most tokens of 'inputs' and 'targets'; None for those of the run.
    batch_size: inputs at a time, over all devices.
    dtype: of the activations, or None for the run's own.
    weights: 'bfloat16', 'int8', or None for float32.
    base_checkpoint_path: where the base of checkpoints without it is now, or None.
  """
  import sys

  import jax

  import t5x_lite.tasks  # noqa: F401 - registers them
  from t5x_lite import api, errors, remote, sharding, terminal
  from t5x_lite.evaluation import answers, parts, questions, runs, writing

  if checkpoint != 'latest' and not isinstance(checkpoint, int):
    raise errors.UserError(
      f"CHECKPOINT={checkpoint!r} is for `t5x-lite eval`: give 'latest' or a step"
    )
  is_asked_here = source.is_standard_input and output_file == '-' and request.mode == 'predict'
  if interactive and not is_asked_here:
    raise errors.UserError(
      '--interactive answers what is typed: leave out INPUT, MIXTURE_OR_TASK_NAME, OUTPUT and MODE'
    )
  if request.mode == 'encode' and writing.is_stream(output_file):
    raise errors.UserError(
      f"MODE='encode' writes arrays, OUTPUT={output_file} takes text: name a file, states.npz"
    )
  if remote.is_remote(output_file):
    raise errors.UserError(
      f'OUTPUT={output_file}: answers are appended as they come, which no bucket allows: name a file '
      'of this machine, and copy it in the end'
    )
  opened = runs.open_run(
    model_dir, checkpoint, dtype=dtype, weights=weights, base_path=base_checkpoint_path
  )
  lengths = opened.lengths(task_feature_lengths)
  if interactive or (is_asked_here and sys.stdin.isatty()):
    terminal.converse(api.Model(opened, mesh, lengths, batch_size=None), request.decoding)
    return

  tokenizer = questions.Tokenizer(
    opened.load_vocabulary(),
    lengths,
    add_eos=opened.inputs_end_in_eos,
    cut=source.cut_long_inputs,
    needs=request.needs,
    labels=request.labels,
  )
  asked, count = questions.of(source, tokenizer, opened)
  asked = enumerate(asked)
  model = opened.model(mesh)
  sharding.check_batch_size(batch_size, model.mesh)
  is_stream = writing.is_stream(output_file)
  if not is_stream:
    settings = parts.settings_of(opened, request, source, lengths)
    kept = parts.Parts(output_file, settings, jax.process_index())
    asked = kept.unanswered(asked)
  params = opened.restore(opened.steps[0], model)
  # Who writes to standard input may wait for answers; a file is sorted by length.
  window = 1 if source.is_standard_input else answers.WINDOW
  answered = answers.answer(asked, request, model, params, tokenizer, batch_size, window)
  if is_stream:
    writing.to_stream(answered, output_file, count)
  else:
    writing.to_parts(answered, kept, count, request.mode == 'encode')
