"""t5x_lite: train, fine-tune, evaluate and query T5 with JAX and Flax."""

__version__ = '0.1.0'


def load(path, **options):
  """Loads a run to be asked from Python; see `t5x_lite.api.load` for what it takes and returns."""
  from t5x_lite import api

  return api.load(path, **options)
