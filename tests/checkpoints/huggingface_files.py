"""Compares folders of Hugging Face's."""

import numpy as np
import safetensors.numpy

from t5x_lite.checkpoints import huggingface


def assert_same_weights(folder, expected_folder):
  """Whether the weights of two folders, of one file each, are the same to the bit."""
  written, expected = (
    safetensors.numpy.load_file(each / huggingface.WEIGHTS) for each in (folder, expected_folder)
  )
  assert written.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(written[name], array, strict=True)
