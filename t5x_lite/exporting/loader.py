"""Asks the model in this folder in token ids, with nothing but jax.

    tokens, scores = loader.Model().predict([[5, 6, 1], [7, 1]])

texts.py beside it makes ids of texts.
"""

import json
import pathlib
import sys

import jax
import jax.export
import numpy as np


class Model:
  """What manifest.json describes."""

  def __init__(self, folder=pathlib.Path(__file__).parent):
    folder, self.weights, self.programs = pathlib.Path(folder), {}, {}
    self.manifest = json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))
    for name, array in np.load(folder / 'weights.npz').items():
      # numpy has no bfloat16: its files hold the two bytes of each.
      array = array.view(jax.numpy.bfloat16) if array.dtype.kind == 'V' else array
      self.weights[name] = jax.device_put(array)
    # jax reads programs with flatbuffers, which does not come with it; an installed one is first.
    sys.path.append(str(folder / 'packages'))
    for path in folder.glob('*.jax_export'):
      exported = jax.export.deserialize(bytearray(path.read_bytes()))
      self.programs[path.stem] = jax.jit(exported.call)

  def predict(self, inputs, numbers=None):
    """Answers n lists of ids: tokens [n, answers, length] and scores [n, answers], the best first.

    What is drawn for an input, where answers are sampled, depends on its number: 0, 1, ...
    """
    numbers = np.arange(len(inputs)) if numbers is None else np.asarray(numbers)
    return self._run('predict', self._rows(inputs, 'inputs'), numbers.astype(np.int32))

  def score(self, inputs, targets):
    """Returns the log-probabilities [n] of n lists of ids, each given the ids of its input."""
    return self._run('score', self._rows(inputs, 'inputs'), self._rows(targets, 'targets'))

  def _rows(self, ids, feature):
    rows = np.zeros((len(ids), self.manifest['lengths'][feature]), np.int32)
    for row, each in zip(rows, ids, strict=True):
      row[: len(each)] = each
    return rows

  def _run(self, name, *rows):
    n = len(rows[0])
    sizes = self.manifest['batch_sizes'] or [max(n, 1)]
    size = next((size for size in sizes if size >= n), sizes[-1])
    program = self.programs.get(name) or self.programs[f'{name}-{size}']
    starts = range(0, max(n, 1), size)
    missing = size * len(starts) - n
    rows = [np.pad(each, [(0, missing)] + [(0, 0)] * (each.ndim - 1)) for each in rows]
    parts = [program(self.weights, *(each[i : i + size] for each in rows)) for i in starts]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *parts)
