"""`t5x-lite export`: a run as a folder that is asked without t5x_lite, by jax or by TensorFlow alone.

See `exporting.artifact` for what the folder holds.
"""

import typing
from collections.abc import Mapping

if typing.TYPE_CHECKING:
  from t5x_lite.decoding.options import DecodingConfig
  from t5x_lite.exporting.programs import Targets

HELP = 'write a model as a folder that jax alone, or TensorFlow, runs without t5x_lite'
USES_GIN = True
DEFAULT_GIN_FILES = ('runs/export.gin',)


def add_arguments(parser):
  """Adds nothing: exports are configured by gin."""
  del parser


def run(args):
  """Exports as the parsed gin configuration says."""
  del args
  from t5x_lite import configuration

  configuration.configured(export)()


def export(
  *,
  model_dir: str,
  output: str,
  decoding: 'DecodingConfig',
  targets: 'Targets',
  file_format: str = 'jax',
  checkpoint: str | int = 'latest',
  task_feature_lengths: Mapping[str, int] | None = None,
  cut_long_inputs: bool = False,
  dtype: str | None = None,
  weights: str | None = None,
  base_checkpoint_path: str | None = None,
):
  """Writes the folder and says how it is used.

  Args:
    model_dir: folder of the run.
    output: the folder, which must not exist.
    decoding: how answers are decoded.
    targets: platforms and sizes of batches.
    file_format: 'jax' or 'tensorflow'.
    checkpoint: 'latest' or a step.
    task_feature_lengths: most tokens of 'inputs' and 'targets'; None for those of the run.
    cut_long_inputs: whether texts with more tokens are cut, and not refused.
    dtype: of the activations, or None for the run's own.
    weights: 'bfloat16', 'int8', or None for float32.
    base_checkpoint_path: where the base of checkpoints without it is now, or None.
  """
  from t5x_lite import errors
  from t5x_lite.evaluation import runs
  from t5x_lite.exporting import artifact

  opened = runs.open_run(
    model_dir, checkpoint, dtype=dtype, weights=weights, base_path=base_checkpoint_path
  )
  if len(opened.steps) > 1:
    raise errors.UserError(f"CHECKPOINT={checkpoint!r} are several: give 'latest' or a step")
  artifact.write(
    output,
    opened,
    lengths=opened.lengths(task_feature_lengths),
    decoding=decoding,
    targets=targets,
    file_format=file_format,
    cut_long_inputs=cut_long_inputs,
  )
  sizes = targets.sorted_sizes
  batches = 'any size' if sizes is None else f'{", ".join(map(str, sizes))} rows'
  platforms = ', '.join(targets.platforms)
  print(f'{output}: step {opened.steps[0]} for {platforms}, in batches of {batches}')
  if file_format == 'jax':
    print('from its folder: import loader; loader.Model().predict([[5, 6, 1]])')
  else:
    print(f"tf.saved_model.load({output!r}).signatures['serving_default'](tf.constant(['a text']))")
