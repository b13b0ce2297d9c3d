"""Metrics over literal predictions."""

from t5x_lite.data import metrics


def test_labels_become_class_ids_and_other_text_is_invalid():
  texts = ['negative', ' positive\n', 'Positive', 'positive positive', '']
  ids = [
    metrics.label_to_class_id(t, label_classes=('negative', 'positive'), is_target=False)
    for t in texts
  ]
  assert ids == [0, 1, -1, -1, -1]


def test_accuracy_is_a_percentage_and_invalid_predictions_are_wrong():
  targets, predictions = [0, 1, 1, 0], [0, 1, -1, 1]
  assert metrics.accuracy(targets, predictions) == {'accuracy': 50.0}
  assert metrics.invalid_predictions(targets, predictions) == {'invalid_predictions': 25.0}
