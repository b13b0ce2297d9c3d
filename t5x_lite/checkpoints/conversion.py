"""Weights of another project as a run's folder, from which to train, evaluate and infer.

checkpoints/STEP/  the parameters, without a state of the optimizer
vocabulary/        if it is known
model.gin          the model, in the manner of the gin files in models/
"""

import dataclasses

import jax.numpy as jnp

from t5x_lite.checkpoints import folders, foreign, layout, manager
from t5x_lite.models import architectures
from t5x_lite.models.config import T5Config
from t5x_lite.training import state as training_state

GIN_FILE = 'model.gin'
# Those that T5 was pre-trained with; nothing in the weights depends on them.
_TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}
# What a run decides, whatever the model; most are macros in gin_configs/models/t5_1_1.gin.
_OF_THE_RUN = (
  'dropout_rate',
  'dtype',
  'matmul_dtype',
  'scan_layers',
  'remat_policy',
  'remat_offload',
  'adapter',
)


def write_run(
  weights: foreign.Weights, model: T5Config, folder, *, dtype: str = 'float32', vocabulary=None
):
  """Writes weights as a run's folder, which appears complete or not at all.

  Few arrays are in memory at a time, see `storage.write_params`.

  Args:
    weights: of any format.
    model: which they are of.
    folder: must not exist, or be empty.
    dtype: that of the parameters, one of `models.config.DTYPES`.
    vocabulary: the `seqio.Vocabulary`, or None.

  Raises:
    UserError: the weights are of another model, or something cannot be read or written.
  """
  model = dataclasses.replace(model, scan_layers=False, dtype='float32')
  shapes = layout.flatten(training_state.param_shapes(architectures.create(model)))
  weights.plan({name: leaf.shape for name, leaf in shapes.items()})
  metadata = {
    'model': dataclasses.asdict(model),
    'vocabulary': None,
    'mixture_or_task_name': None,
    'task_feature_lengths': _TASK_FEATURE_LENGTHS,
  }
  with folders.new(folder) as unfinished:
    if vocabulary is not None:
      from t5x_lite.data import vocabulary as vocabularies  # Imports TensorFlow.

      vocabularies.check_fits(vocabulary, model.vocab_size)
      vocabularies.save(vocabulary, unfinished / 'vocabulary')
      metadata['vocabulary'] = vocabularies.fingerprint(vocabulary)
    params = ((name, weights.read(name).astype(jnp.dtype(dtype))) for name in weights.shapes)
    with manager.CheckpointManager(unfinished / 'checkpoints') as checkpoints:
      checkpoints.write_params(weights.step or 0, params, metadata=metadata)
    (unfinished / GIN_FILE).write_text(_gin(weights, model), encoding='utf-8')


def _gin(weights, model: T5Config) -> str:
  settings = {
    name: value for name, value in dataclasses.asdict(model).items() if name not in _OF_THE_RUN
  }
  lines = '\n'.join(f'  {name} = {value!r}' for name, value in settings.items())
  return f"""# The model of {weights.path}.

from __gin__ import dynamic_registration

from t5x_lite.models import config

include 'models/t5_1_1.gin'

config.T5Config:
{lines}
"""
