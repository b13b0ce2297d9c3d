"""A run, loaded to be asked from Python.

    model = t5x_lite.load('quickstart_runs/finetune')
    model.predict(['sst2 sentence: a joy to watch'], num_beams=4, num_answers=2)
    model.score(['sst2 sentence: a joy to watch'], ['positive'])
    model.evaluate('quickstart_sentiment_rotten_tomatoes', num_examples=100)

The commands `infer` and `eval` do the same with files.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from t5x_lite import errors, sharding
from t5x_lite.data import batches as data_batches
from t5x_lite.decoding import options
from t5x_lite.evaluation import answers, evaluator, inference, runs


class Model:
  """The model of a checkpoint, on all local devices.

  Attributes:
    config: its `T5Config`.
    vocabulary: its `seqio.Vocabulary`.
    lengths: the most tokens of 'inputs' and 'targets', EOS included: those that it was trained with, unless others
      were given. What is longer is cut.
  """

  def __init__(
    self, run: runs.Run, mesh: sharding.MeshConfig, lengths: Mapping[str, int], batch_size: int
  ):
    self._run = run
    self._inference = run.model(mesh)
    sharding.check_batch_size(batch_size, self._inference.mesh)
    self._params = run.restore(run.steps[0], self._inference)
    self._batch_size = batch_size
    self.config = run.config
    self.vocabulary = run.load_vocabulary()
    self.lengths = dict(lengths)

  def predict(self, inputs: str | Sequence[str], **decoding) -> list[dict]:
    """Answers texts.

    Args:
      inputs: one text or several.
      **decoding: the fields of `options.DecodingConfig`, such as num_beams=4.

    Returns:
      For each text what `t5x-lite infer` prints: 'inputs', 'prediction', 'score' and, if several are asked for,
      'answers'; or 'error'.
    """
    decoder = options.DecodingConfig(**decoding).resolve(self.vocabulary, self.lengths['targets'])
    texts = [inputs] if isinstance(inputs, str) else list(inputs)
    questions = answers.from_lines(texts, self.vocabulary, self.lengths['inputs'], self._add_eos)
    answered = answers.answer(
      questions,
      self._inference,
      self._params,
      self.vocabulary,
      self.lengths['inputs'],
      decoder,
      self._batch_size,
    )
    return list(answered)

  @property
  def _add_eos(self):
    return 'inputs' in self._run.task_feature_lengths

  def score(self, inputs: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """Returns float32 [n]: the log-probability in nats, EOS included, of each of n targets, given its input."""
    if len(inputs) != len(targets):
      raise errors.UserError(f'{len(inputs)} inputs, but {len(targets)} targets: give one to each')
    rows = [
      self._rows(texts, name, add_eos)
      for texts, name, add_eos in ((inputs, 'inputs', self._add_eos), (targets, 'targets', True))
    ]
    starts = range(0, len(inputs), self._batch_size)
    batches = (
      inference.fill_up(
        data_batches.of_tokens(
          *(x[i : i + self._batch_size] for x in rows), self.config.has_encoder
        ),
        self._batch_size,
      )
      for i in starts
    )
    scores = list(self._inference.score(self._params, batches))
    return np.concatenate([*scores, np.zeros(0, np.float32)])[: len(inputs)]

  def _rows(self, texts, name, add_eos):
    """Tokens of texts, int32 [number, length]."""
    length = self.lengths[name]
    questions = answers.from_lines(texts, self.vocabulary, length, add_eos)
    return answers.padded(questions, (len(texts), length))

  def evaluate(
    self, task: str | Sequence[str] | None = None, **config
  ) -> dict[str, dict[str, float]]:
    """Returns the metrics of registered tasks, by task.

    Args:
      task: one or several; None for what the run was trained on.
      **config: other fields of `evaluator.EvaluationConfig`, such as split, num_examples or predict_by.
    """
    import t5x_lite.tasks  # noqa: F401 - registers them

    defaults = {'task_feature_lengths': self.lengths, 'batch_size': self._batch_size}
    evaluation = evaluator.EvaluationConfig(self._run.find_tasks(task), **(defaults | config))
    return evaluator.Evaluator(evaluation, self._inference).evaluate(
      self._params, self._run.steps[0]
    )


def load(
  path,
  *,
  checkpoint: str | int = 'latest',
  lengths: Mapping[str, int] | None = None,
  batch_size: int = 32,
  dtype: str | None = None,
  mesh: sharding.MeshConfig | None = None,
) -> Model:
  """Loads a run, such as one that `t5x-lite train` or `t5x-lite convert` has written.

  Args:
    path: its folder, or one of its checkpoints/STEP folders.
    checkpoint: 'latest' or a step.
    lengths: the most tokens of 'inputs' and 'targets'; None for those that it was trained with.
    batch_size: texts at a time, over all devices.
    dtype: of the activations, 'float32' or 'bfloat16'; None for what it was trained in.
    mesh: the devices; None for all, each with a share of a batch.

  Raises:
    UserError: there is no such checkpoint.
  """
  run = runs.open_run(path, checkpoint, dtype=dtype)
  if len(run.steps) > 1:
    raise errors.UserError(f"checkpoint={checkpoint!r} are several: give 'latest' or a step")
  return Model(run, mesh or sharding.data_parallel(), run.lengths(lengths), batch_size)
