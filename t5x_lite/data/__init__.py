"""The seqio boundary: the only package that imports TensorFlow."""

import os

# TensorFlow reads this once, when it is first imported.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import tensorflow as tf

try:
  # TensorFlow only feeds data here; left alone it would take the memory of every GPU it sees.
  tf.config.set_visible_devices([], 'GPU')
except RuntimeError:
  pass  # Whoever used TensorFlow before this import has chosen its devices already.
