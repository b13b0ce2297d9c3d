"""A run's folder, opened to evaluate or query its checkpoints.

A checkpoint describes itself: its metadata holds the model's configuration, what it was trained
on and the fingerprint of its vocabulary, so that nobody has to say these things again.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5x_lite import choices, errors, remote, sharding
from t5x_lite import modules as user_modules
from t5x_lite.checkpoints import foreign, origins
from t5x_lite.checkpoints import manager as checkpoint_manager
from t5x_lite.data import batches, vocabulary
from t5x_lite.evaluation import inference
from t5x_lite.hosts import job
from t5x_lite.models import architectures, quantization
from t5x_lite.models.config import T5Config
from t5x_lite.training import state as training_state


@dataclasses.dataclass(frozen=True)
class Run:
  """A run and those of its checkpoints that were asked for.

  Attributes:
    folder: MODEL_DIR.
    steps: the checkpoints' steps, ascending.
    config: `T5Config` of the model.
    mixture_or_task_name: what it was trained on; None if its weights were converted.
    task_feature_lengths: the lengths it was trained with.
    fingerprint: of its vocabulary, see `data.vocabulary.fingerprint`; None if it is not known.
    modules: the user's modules that registered its tasks.
    newest: the last of the checkpoints.
    weights: how parameters are kept, see `models.quantization`.
  """

  folder: epath.Path
  steps: Sequence[int]
  config: T5Config
  mixture_or_task_name: str | None
  task_feature_lengths: Mapping[str, int]
  fingerprint: Mapping[str, Any] | None
  modules: Sequence[str]
  newest: origins.Checkpoint
  weights: str | None = None

  def load_vocabulary(self):
    """Returns the `seqio.Vocabulary` that the run keeps in its folder."""
    return vocabulary.load(remote.local(self.folder / 'vocabulary'))

  @property
  def inputs_end_in_eos(self) -> bool:
    """Whether inputs end in EOS; not those of a language model of whole texts, which it is to go on with."""
    return 'inputs' in self.task_feature_lengths

  def lengths(self, given: Mapping[str, int] | None = None) -> Mapping[str, int]:
    """Returns the most tokens of 'inputs' and 'targets': those given, or those of training.

    Raises:
      UserError: there are none for inputs.
    """
    lengths = given or self.task_feature_lengths
    if 'inputs' not in lengths:
      raise errors.UserError(
        f'the run was trained on {self.mixture_or_task_name!r} without inputs: say how long '
        "they may be, --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 64, 'targets': 64}\""
      )
    return lengths

  def find_tasks(self, names: str | Sequence[str] | None = None) -> list[str]:
    """Returns the names of registered tasks or mixtures, whose vocabulary is the run's.

    The run's own modules are imported if a task is not found without them, and tasks that leave
    their vocabulary and their objective to the model get the run's.

    Args:
      names: one or several; None for what the run was trained on.

    Raises:
      UserError: there is no such task, or its vocabulary is another.
    """
    kept = remote.local(self.folder / 'vocabulary')
    choices.choose(
      vocabulary=str(kept) if (kept / 'vocabulary.json').exists() else None,
      **{
        name: self.newest.metadata.get(name, getattr(choices.Choices(), name))
        for name in ('objective', 'objective_settings')
      },
    )
    names = names or self.mixture_or_task_name
    if names is None:
      raise errors.UserError(
        f'the run in {self.folder} was not trained here: pass --gin.MIXTURE_OR_TASK_NAME=...'
      )
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
      try:
        features = batches.output_features(name)
      except errors.UserError:
        if not self.modules:
          raise
        user_modules.import_all(self.modules)
        features = batches.output_features(name)
      if self.fingerprint is not None:
        vocabulary.check_same(
          self.fingerprint,
          vocabulary.fingerprint(features['targets'].vocabulary),
          model=f'the run in {self.folder}',
          task=name,
        )
    return names

  def model(
    self, mesh_config: sharding.MeshConfig, max_decoders: int | None = None
  ) -> inference.Inference:
    """Returns the model, on a mesh over all devices; for `max_decoders` see `inference.Inference`."""
    mesh = sharding.make_mesh(mesh_config)
    return inference.Inference(self.config, mesh, mesh_config.rules, max_decoders)

  def restore(self, step: int, model: inference.Inference):
    """Returns the parameters of one checkpoint, each read right into its place on the mesh."""
    abstract = training_state.abstract_params(
      architectures.create(self.config), model.mesh, model.rules
    )
    checkpoint = dataclasses.replace(self.newest, step=step)
    if self.weights is None:
      return checkpoint.restore_params(abstract)
    # One after the other, so that they are never all there in float32.
    one_by_one = foreign.Weights(
      checkpoint.path, self.config, checkpoint.vocabulary, checkpoint.shapes, checkpoint.read
    )
    keep = functools.partial(quantization.keep, weights=self.weights)
    return one_by_one.restore_params(abstract, keep)


def open_run(
  model_dir,
  checkpoint: str | int | Sequence[int] = 'latest',
  *,
  dtype: str | None = None,
  weights: str | None = None,
  base_path=None,
) -> Run:
  """Opens a run's folder; no parameters are read yet.

  The layers are unrolled, however they were trained, since decoding wants them so.

  Args:
    model_dir: the run's folder, or one of its checkpoints/STEP folders.
    checkpoint: 'latest', 'all', a step, or several.
    dtype: of the activations, instead of the one the model was trained in.
    weights: None for float32, 'bfloat16' or 'int8', see `models.quantization`.
    base_path: where the base is, if checkpoints of the trained parameters alone had another path.

  Raises:
    UserError: there is no such checkpoint, or it does not say what it is of; or nobody keeps
      weights in that way.
  """
  quantization.check(weights)
  checkpoints, latest = checkpoint_manager.open_checkpoint(model_dir)
  latest = job.agreed(latest)  # The run may be saving another one.
  if checkpoint == 'latest':
    steps = [latest]
  elif checkpoint == 'all':
    steps = [step for step in checkpoints.steps() if step <= latest]
  else:
    steps = [checkpoint] if isinstance(checkpoint, int) else checkpoint
    if isinstance(steps, str) or not all(isinstance(step, int) for step in steps) or not steps:
      raise errors.UserError(
        f"CHECKPOINT={checkpoint!r} may be 'latest', 'all', a step or a list of steps, of which "
        f'there are {", ".join(map(str, checkpoints.steps()))}'
      )
    steps = sorted(steps)
  newest = origins.open_step(checkpoints, steps[-1], base_path)
  changes = {'scan_layers': False}
  if dtype is not None:
    changes['dtype'] = dtype
  return Run(
    folder=newest.folder,
    steps=steps,
    config=dataclasses.replace(newest.model.for_inference(), **changes),
    mixture_or_task_name=newest.said('mixture_or_task_name'),
    task_feature_lengths=newest.said('task_feature_lengths'),
    fingerprint=newest.vocabulary,
    modules=newest.metadata.get('modules', ()),
    newest=newest,
    weights=weights,
  )
