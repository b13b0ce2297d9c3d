"""A model on a mesh, ready to be asked: for its loss, its scores, its answers.

Nothing here knows where batches come from: they are dicts of numpy arrays, by seqio's names.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from t5x_lite import sharding
from t5x_lite.decoding import loop, options, scoring
from t5x_lite.models import architectures

Batch = Mapping[str, np.ndarray]


class Prompts(NamedTuple):
  """What a batch of answers is decoded for.

  Attributes:
    inputs: int32 [batch, inputs_length]; 0 is padding, and a row without tokens fills the batch up.
    numbers: int32 [batch], of the inputs among all of them; what is drawn for them depends on these.
    prefix: int32 [batch, prefix_length], tokens with which each answer begins; None for none.
    seeds: int32 [batch], of what is drawn; None for that of the decoder. Other seeds compile nothing anew.
  """

  inputs: np.ndarray
  numbers: np.ndarray
  prefix: np.ndarray | None = None
  seeds: np.ndarray | None = None


class Inference:
  """The jitted functions of one model, each compiled once for each shape of batch.

  In a job of several hosts all of them call the same methods with the same, whole batches, and
  all get the whole results. A batch has to divide by the devices that share it, see
  `sharding.check_batch_size`; rows of zeros fill it up.

  Attributes:
    config: the `T5Config`.
    mesh: the `jax.sharding.Mesh`.
    rules: what maps logical axes to the mesh's.
    decode: function of an `options.Decoder`, which returns the jitted one of parameters and `Prompts`.
  """

  def __init__(
    self,
    config,
    mesh,
    rules=sharding.RULES,
    max_decoders: int | None = None,
    on_batch: Callable[[], None] = lambda: None,
  ):
    """Prepares; compiles nothing yet.

    Args:
      config: `T5Config`; scanned or not, as the parameters will be.
      mesh: `jax.sharding.Mesh` on which the parameters lie.
      rules: see `sharding.MeshConfig`.
      max_decoders: keeps the compiled programs of so many decoders, those last used; None for all.
      on_batch: called whenever the devices have finished a batch.
    """
    config = config.for_inference()
    self.config = config
    self.mesh = mesh
    self.rules = rules
    self._on_batch = on_batch
    model = architectures.create(config)
    # Replicated, so that each host can read all of the few numbers that come out.
    jit = functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    self._row_sums = jit(functools.partial(scoring.row_sums, model))
    self._token_log_probs = jit(functools.partial(scoring.token_log_probs, model))
    self._encode = jit(functools.partial(scoring.encode, model), static_argnums=2)

    @functools.lru_cache(max_decoders)
    def decode(decoder: options.Decoder):
      return jit(lambda params, prompts: decoder.decode(config, params, *prompts))

    self.decode = decode

  def loss(self, params, batches: Iterable[Batch]) -> dict[str, float]:
    """Measures how well the model predicts given targets, token by token.

    All rows are summed up in their order and divided once, so that it makes no difference how
    they are divided into batches and over devices.

    Returns:
      'loss', the cross-entropy in nats per target token without any regularizer, so that exp of
      it is the perplexity; 'z_loss', what the default z-loss would add to it; and
      'token_accuracy', the share of targets with the highest logit.
    """
    totals = dict.fromkeys(('loss', 'z_loss', 'correct', 'weight'), 0.0)
    for sums in self._run(self._row_sums, params, batches):
      totals = {name: sum(sums[name].tolist(), total) for name, total in totals.items()}
    weight = max(totals['weight'], 1.0)
    return {
      'loss': (totals['loss'] - totals['z_loss']) / weight,
      'z_loss': totals['z_loss'] / weight,
      'token_accuracy': totals['correct'] / weight,
    }

  def score(self, params, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
    """Yields the log-probabilities of the targets, float32 [batch], for each batch."""
    return map(scoring.log_probs, self._run(self._row_sums, params, batches))

  def score_tokens(
    self, params, batches: Iterable[Batch]
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `scoring.token_log_probs` and where the targets are, [batch, targets_length] each, for each batch."""
    return self._run(self._token_log_probs, params, batches)

  def encode(self, params, inputs: Iterable[np.ndarray], mean: bool) -> Iterator[np.ndarray]:
    """Yields `scoring.encode` of each batch of inputs, int32 [batch, inputs_length]."""
    return self._run(lambda params, inputs: self._encode(params, inputs, mean), params, inputs)

  def predict(
    self, params, prompts: Iterable[Prompts], decoder: options.Decoder
  ) -> Iterator[loop.Decoded]:
    """Yields what is decoded for each batch of prompts, as numpy arrays."""
    return self._run(self.decode(decoder), params, prompts)

  def _run(self, function, params, batches):
    """Yields the results of `function` in order, one batch behind, so that no device waits."""
    pending = None
    for batch in batches:
      with sharding.activate(self.mesh, self.rules):
        result = function(params, self._on_devices(batch))
      if pending is not None:
        yield jax.device_get(pending)
        self._on_batch()
      pending = result
    if pending is not None:
      yield jax.device_get(pending)

  def _on_devices(self, batch):
    rows = sharding.batch_sharding(self.mesh)

    def put(x):
      return jax.make_array_from_callback(x.shape, rows, lambda index: x[index])

    return jax.tree.map(lambda x: put(np.asarray(x)), batch)


def fill_up(batch: Batch, batch_size: int) -> dict[str, np.ndarray]:
  """Adds rows of zeros until the batch has `batch_size`; they count for nothing anywhere."""
  missing = batch_size - len(next(iter(batch.values())))
  return {
    name: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x
    for name, x in batch.items()
  }
