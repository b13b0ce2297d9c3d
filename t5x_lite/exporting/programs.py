"""What an export computes: predict and score, from parameters and tokens, in StableHLO."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from t5x_lite import errors
from t5x_lite.checkpoints import layout
from t5x_lite.data import batches
from t5x_lite.decoding import loop, options, scoring
from t5x_lite.models import architectures, quantization
from t5x_lite.models.config import T5Config

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


@dataclasses.dataclass(frozen=True)
class Targets:
  """What programs are made for.

  Attributes:
    platforms: some of `PLATFORMS`; each program runs on all of these.
    batch_sizes: numbers of rows, a program for each; None for one program that takes any number.
  """

  platforms: Sequence[str] = ('cpu', 'cuda', 'tpu')
  batch_sizes: Sequence[int] | None = None

  def __post_init__(self):
    if not self.platforms or not set(self.platforms) <= set(PLATFORMS):
      raise errors.UserError(
        f'PLATFORMS={self.platforms!r} must be some of {", ".join(PLATFORMS)}, such as '
        "('cpu', 'cuda')"
      )
    sizes = self.batch_sizes
    if sizes is not None and not (sizes and all(isinstance(n, int) and n > 0 for n in sizes)):
      raise errors.UserError(
        f'BATCH_SIZES={sizes!r} must be numbers of rows from 1 on, such as (1, 8, 32), '
        'or None for any'
      )

  @property
  def sorted_sizes(self) -> list[int] | None:
    """The sizes, ascending, each once; None for any."""
    return None if self.batch_sizes is None else sorted(set(self.batch_sizes))


@dataclasses.dataclass(frozen=True)
class Program:
  """One function for one shape of batch.

  Its arguments are the arrays of `read`, by name, and for

    predict: inputs int32 [batch, inputs_length] and numbers int32 [batch], on which draws depend;
      it returns (tokens int32 [batch, answers, length], scores float32 [batch, answers]), see
      `loop.Decoded`.
    score: inputs, and targets int32 [batch, targets_length]; it returns the log-probabilities of
      the targets, float32 [batch].

  Attributes:
    name: 'predict' or 'score'.
    batch_size: its rows; None for any number.
    exported: the `jax.export.Exported`.
  """

  name: str
  batch_size: int | None
  exported: jax.export.Exported


def make(
  config: T5Config,
  decoder: options.Decoder,
  lengths: Mapping[str, int],
  params: Mapping[str, Any],
  targets: Targets,
) -> list[Program]:
  """Traces and lowers; no accelerator is needed for it.

  Args:
    config: of the model, its layers unrolled.
    decoder: how answers are decoded.
    lengths: the most tokens of 'inputs' and 'targets'.
    params: from `read`.
    targets: what for.

  Raises:
    UserError: a user's transform of logits needs to know the size of the batch.
  """
  model = architectures.create(config)
  arrays = layout.flatten(params)

  def predict(weights, inputs, numbers):
    decoded = decoder.decode(config, layout.rebuild(params, weights), inputs, numbers, None)
    return decoded.tokens, decoded.scores

  def score(weights, inputs, targets):
    batch = batches.of_tokens(inputs, targets, config.has_encoder)
    return scoring.log_probs(scoring.row_sums(model, layout.rebuild(params, weights), batch))

  def lower(function, batch_size, *lengths):
    rows = [jax.ShapeDtypeStruct((batch_size, *length), jnp.int32) for length in lengths]
    return jax.export.export(jax.jit(function), platforms=targets.platforms)(arrays, *rows)

  programs = []
  inputs_length, targets_length = (lengths['inputs'],), (lengths['targets'],)
  for size in targets.sorted_sizes or [None]:
    rows = jax.export.symbolic_shape('batch')[0] if size is None else size
    try:
      predicting = lower(predict, rows, inputs_length, ())
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
      if size is not None:
        raise
      raise errors.UserError(
        f'decoding cannot be exported for batches of any size ({str(error).splitlines()[0]}): give '
        'the sizes, such as --gin.BATCH_SIZES=(1,8,32)'
      ) from error
    programs.append(Program('predict', size, predicting))
    programs.append(Program('score', size, lower(score, rows, inputs_length, targets_length)))
  return programs


def read(checkpoint, dtype: str, weights: str | None) -> dict[str, Any]:
  """Returns the parameters as they are computed with, their layers unrolled.

  Args:
    checkpoint: `checkpoints.origins.Checkpoint`.
    dtype: of the activations.
    weights: see `models.quantization`.

  Returns:
    nested dict; of an int8 matrix, two arrays are `.../kernel/values` and `.../kernel/scale`.
  """
  params = {
    name: quantization.keep(name, checkpoint.read(name), weights) for name in checkpoint.shapes
  }
  return loop.cast_once(layout.unflatten(params), jnp.dtype(dtype))
