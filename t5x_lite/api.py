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
from t5x_lite.decoding import options
from t5x_lite.evaluation import answers, evaluator, questions, requests, runs


class Model:
  """The model of a checkpoint, on all local devices.

  Attributes:
    config: its `T5Config`.
    vocabulary: its `seqio.Vocabulary`.
    lengths: the most tokens of 'inputs' and 'targets', EOS included: those that it was trained with, unless others
      were given.
  """

  def __init__(
    self,
    run: runs.Run,
    mesh: sharding.MeshConfig,
    lengths: Mapping[str, int],
    batch_size: int | None,
    cut_long_inputs: bool = False,
  ):
    """Loads a checkpoint, see `load`. Without a batch size it is the least there can be."""
    self._run = run
    self._cut_long_inputs = cut_long_inputs
    self._inference = run.model(mesh)
    self._batch_size = batch_size or sharding.num_batch_shards(self._inference.mesh)
    sharding.check_batch_size(self._batch_size, self._inference.mesh)
    self._params = run.restore(run.steps[0], self._inference)
    self.config = run.config
    self.vocabulary = run.load_vocabulary()
    self.lengths = dict(lengths)

  def predict(
    self, inputs: str | Sequence[str], *, numbers: Sequence[int] | None = None, **decoding
  ) -> list[dict]:
    """Answers texts.

    Args:
      inputs: one text or several.
      numbers: what is drawn for each text depends on these; None for 0, 1, ...
      **decoding: the fields of `options.DecodingConfig`, such as num_beams=4.

    Returns:
      For each text what `t5x-lite infer` prints: 'inputs', 'prediction', 'score' and, if several are asked for,
      'answers'; or 'error'.
    """
    texts = [inputs] if isinstance(inputs, str) else inputs
    fields = [{'inputs': text} for text in texts]
    return self._answer(
      fields, requests.Request(decoding=options.DecodingConfig(**decoding)), numbers
    )

  def score(self, inputs: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """Returns float32 [n]: the log-probability in nats, EOS included, of each of n targets, given its input."""
    answered = self._answer(_with('targets', inputs, targets), requests.Request('score'))
    return np.array([each['score'] for each in _without_errors(answered)], np.float32)

  def rank(self, inputs: Sequence[str], labels: Sequence[str]) -> list[dict]:
    """Returns for each input the most probable label as 'prediction', and all with their scores as 'answers'."""
    fields = [{'inputs': text} for text in inputs]
    return self._answer(fields, requests.Request('rank', labels=tuple(labels)))

  def encode(self, inputs: Sequence[str], pooling: str = 'mean') -> list[np.ndarray]:
    """Returns the encoder's states of each input, float32: see `requests.Request`.

    Args:
      inputs: texts.
      pooling: 'mean' for [emb_dim] each, 'none' for [tokens, emb_dim].
    """
    fields = [{'inputs': text} for text in inputs]
    answered = self._answer(fields, requests.Request('encode', pooling=pooling))
    return [each['states'] for each in _without_errors(answered)]

  def _answer(self, fields, request, numbers=None):
    tokenizer = questions.Tokenizer(
      self.vocabulary,
      self.lengths,
      add_eos=self._run.inputs_end_in_eos,
      cut=self._cut_long_inputs,
      needs=request.needs,
      labels=request.labels,
    )
    asked = enumerate(questions.of_texts(fields, tokenizer, numbers))
    answered = answers.answer(
      asked, request, self._inference, self._params, tokenizer, self._batch_size
    )
    return list(answers.in_order(answered))

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


def _with(name, inputs, values):
  if len(inputs) != len(values):
    raise errors.UserError(f'{len(inputs)} inputs, but {len(values)} {name}: give one to each')
  return [{'inputs': text, name: value} for text, value in zip(inputs, values, strict=True)]


def _without_errors(answered):
  for each in answered:
    if 'error' in each:
      raise errors.UserError(each['error'])
  return answered


def load(
  path,
  *,
  checkpoint: str | int = 'latest',
  lengths: Mapping[str, int] | None = None,
  batch_size: int = 32,
  cut_long_inputs: bool = False,
  dtype: str | None = None,
  weights: str | None = None,
  mesh: sharding.MeshConfig | None = None,
) -> Model:
  """Loads a run, such as one that `t5x-lite train` or `t5x-lite convert` has written.

  Args:
    path: its folder, or one of its checkpoints/STEP folders.
    checkpoint: 'latest' or a step.
    lengths: the most tokens of 'inputs' and 'targets'; None for those that it was trained with.
    batch_size: texts at a time, over all devices.
    cut_long_inputs: whether inputs with more tokens are cut, and not refused.
    dtype: of the activations, 'float32' or 'bfloat16'; None for what it was trained in.
    weights: 'bfloat16' or 'int8', in less memory and with less exact results; None for float32.
    mesh: the devices; None for all, each with a share of a batch.

  Raises:
    UserError: there is no such checkpoint.
  """
  run = runs.open_run(path, checkpoint, dtype=dtype, weights=weights)
  if len(run.steps) > 1:
    raise errors.UserError(f"checkpoint={checkpoint!r} are several: give 'latest' or a step")
  return Model(
    run, mesh or sharding.data_parallel(), run.lengths(lengths), batch_size, cut_long_inputs
  )
