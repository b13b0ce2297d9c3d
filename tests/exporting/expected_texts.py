"""What `t5x_lite.load` answers, in the form of an exported model's answers."""

import numpy as np

import t5x_lite


def of(run, lengths, lines, targets, decoding, weights=None):
  """Returns what a run makes of texts.

  Args:
    run: its folder.
    lengths: the most tokens.
    lines: inputs.
    targets: a target for each.
    decoding: fields of `DecodingConfig`.
    weights: of the model.

  Returns:
    (texts [n][answers], scores [n, answers], scores of the targets [n]); answers that are not there
    are '' and minus infinity.
  """
  model = t5x_lite.load(run, batch_size=16, lengths=lengths, cut_long_inputs=True, weights=weights)
  number = decoding.get('num_answers', 1)
  missing = {'prediction': '', 'score': -np.inf}
  rows = []
  for told in model.predict(lines, **decoding):
    found = told.get('answers', [told])
    rows.append([*found, *[missing] * (number - len(found))])
  texts = [[each['prediction'] for each in row] for row in rows]
  assert len({text for row in texts for text in row}) > 1
  scores = np.array([[each['score'] for each in row] for row in rows])
  return texts, scores, model.score(lines, targets)
