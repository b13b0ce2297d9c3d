"""Greedy decoding against Hugging Face's on its own tiny models."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from t5x_lite.checkpoints import huggingface, layout
from t5x_lite.decoding import sampling


@pytest.mark.parametrize('name', ['t5_1_0', 't5_1_1'])
def test_greedy_decoding_repeats_the_generations_of_hugging_face(shared_data, name):
  folder = shared_data / 'golden' / 'hf_tiny' / name
  weights = huggingface.open_folder(folder)
  config = dataclasses.replace(weights.model, dtype='float32', scan_layers=False)
  params = layout.unflatten({name: weights.read(name) for name in weights.shapes})
  with np.load(folder / 'expected.npz') as expected:
    inputs = expected['input_ids'].astype(np.int32)
  sequences = json.loads((folder / 'generation.json').read_text())['greedy']['sequences']
  sequences = np.array(sequences)[:, 1:]  # Theirs begin with the decoder's start token.
  decode = functools.partial(sampling.greedy, config, max_length=sequences.shape[1])
  np.testing.assert_array_equal(jax.jit(decode)(params, inputs).tokens, sequences)
