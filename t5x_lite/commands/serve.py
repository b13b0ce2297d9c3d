"""`t5x-lite serve`: answers requests over HTTP.

  POST /predict {"inputs": "a text", "num_beams": 4} -> {"answers": [what `t5x-lite infer` prints]}
  POST /score {"inputs": ["a text"], "targets": ["a target"]} -> {"scores": [-0.5]}
  GET /health, /health/live, /metrics, /openapi.json, and / for a browser

What goes wrong is told by {"error": "one line"} and the status.
"""

import typing
from collections.abc import Mapping

if typing.TYPE_CHECKING:
  from t5x_lite.decoding.options import DecodingConfig
  from t5x_lite.serving.limits import Limits
  from t5x_lite.sharding import MeshConfig

HELP = 'answer requests over HTTP, and in a browser'
USES_GIN = True
DEFAULT_GIN_FILES = ('runs/serve.gin',)


def add_arguments(parser):
  """Adds nothing: the server is configured by gin."""
  del parser


def run(args):
  """Serves as the parsed gin configuration says."""
  del args
  from t5x_lite import configuration

  configuration.configured(serve)()


def serve(
  *,
  model_dir: str,
  mesh: 'MeshConfig',
  decoding: 'DecodingConfig',
  limits: 'Limits',
  host: str = '127.0.0.1',
  port: int = 8000,
  checkpoint: str | int = 'latest',
  task_feature_lengths: Mapping[str, int] | None = None,
  cut_long_inputs: bool = False,
  batch_size: int = 16,
  dtype: str | None = None,
  weights: str | None = None,
  base_checkpoint_path: str | None = None,
):
  """Serves until SIGTERM or SIGINT.

  Args:
    model_dir: folder of the run.
    mesh: the devices.
    decoding: how answers are decoded, where a request says nothing else.
    limits: what is refused, and how long it may take.
    host: address to listen on; '0.0.0.0' is all of this machine, and then anyone who reaches it may ask.
    port: port to listen on; 0 is any that is free.
    checkpoint: 'latest' or a step.
    task_feature_lengths: most tokens of 'inputs' and 'targets'; None for those of the run.
    cut_long_inputs: whether inputs that are too long are cut, and not refused.
    batch_size: the most texts at a time, over all devices.
    dtype: of the activations, or None for the run's own.
    weights: 'bfloat16', 'int8', or None for float32.
    base_checkpoint_path: where the base of checkpoints without it is now, or None.
  """
  from t5x_lite import errors
  from t5x_lite.evaluation import runs

  try:
    from t5x_lite.serving import app, engine, server
  except ModuleNotFoundError as error:
    raise errors.UserError(
      f"`t5x-lite serve` needs {error.name}: pip install 't5x_lite[serve]'"
    ) from None

  opened = runs.open_run(
    model_dir, checkpoint, dtype=dtype, weights=weights, base_path=base_checkpoint_path
  )
  lengths = opened.lengths(task_feature_lengths)
  if len(opened.steps) > 1:
    raise errors.UserError(f"CHECKPOINT={checkpoint!r} are several: give 'latest' or a step")

  def load():
    return engine.Engine(opened, mesh, lengths, batch_size, decoding, limits, cut_long_inputs)

  server.serve(server.listen(host, port), app.Service(batch_size, limits), decoding, load)
