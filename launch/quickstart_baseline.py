"""Measures what the quickstart's sentiment is compared with, TF-IDF with logistic regression.

python launch/quickstart_baseline.py FOLDER

It trains on all labelled reviews of the training split, whole, and writes its accuracy on the sentences
that the models are evaluated on to FOLDER/baseline.json.
"""

import json
import pathlib
import sys

from sklearn import feature_extraction, linear_model, pipeline
from t5x_lite.tasks import quickstart


def accuracy(reviews) -> float:
  """Returns the share of the validation split's Rotten Tomatoes sentences that are told right.

  Args:
    reviews: see `t5x_lite.tasks.quickstart.reviews`.
  """
  training = [row for row in reviews if quickstart.split_of(row[0]) == 'train']
  validation = [
    (text, label)
    for text, label, source in reviews
    if source == 'rotten_tomatoes' and quickstart.split_of(text) == 'validation'
  ]
  model = pipeline.make_pipeline(
    feature_extraction.text.TfidfVectorizer(), linear_model.LogisticRegression()
  )
  model.fit([text for text, _, _ in training], [label for _, label, _ in training])
  return float(model.score(*zip(*validation, strict=True)))


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  result = {'accuracy': accuracy(quickstart.reviews())}
  (pathlib.Path(sys.argv[1]) / 'baseline.json').write_text(json.dumps(result) + '\n')
