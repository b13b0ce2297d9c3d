"""Metric and post-processing functions for seqio tasks; percentages from 0 to 100, as T5 reports them."""

from collections.abc import Sequence

import numpy as np

INVALID = -1


def label_to_class_id(text: str, *, label_classes: Sequence[str], **unused_kwargs) -> int:
  """Post-processes a decoded label.

  Args:
    text: what the model wrote, or a target.
    label_classes: the labels' texts by class id.
    **unused_kwargs: what else seqio passes to post-processors (`example`, `is_target`).

  Returns:
    The class id; INVALID (-1) for text that is no label.
  """
  text = text.strip()
  return label_classes.index(text) if text in label_classes else INVALID


def accuracy(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Share of predictions equal to their target, in percent. INVALID predictions are wrong."""
  return {'accuracy': 100.0 * float(np.mean(np.equal(targets, predictions)))}


def invalid_predictions(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Share of predictions that are no label at all, in percent: high before a model knows its task."""
  del targets
  return {'invalid_predictions': 100.0 * float(np.mean(np.equal(predictions, INVALID)))}
