"""t5x_lite: train, fine-tune, evaluate and query T5 with JAX and Flax."""

__version__ = '0.1.0'
