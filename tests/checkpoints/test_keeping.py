"""Which checkpoints are kept."""

import math

import pytest

from t5x_lite.checkpoints import keeping


@pytest.mark.parametrize(
  ('rules', 'kept'),
  [
    (dict(keep_last=2), {50, 60}),
    (dict(keep_last=None), {0, 10, 20, 30, 40, 50, 60}),
    (dict(keep_last=1, keep_every=20), {0, 20, 40, 60}),
    (dict(keep_last=1, keep_best=2), {10, 40, 60}),
    (dict(keep_last=1, keep_best=1, best_mode='min'), {30, 60}),
    (dict(keep_last=1, keep_best=9), {10, 20, 30, 40, 60}),
  ],
)
def test_the_last_every_nth_and_the_best_are_kept(rules, kept):
  scores = {0: math.nan, 10: 0.9, 20: 0.5, 30: 0.1, 40: 0.9, 50: math.inf, 60: None}
  rules = dict(keep_last=3, keep_every=None, keep_best=None, best_mode='max') | rules
  assert keeping.steps_to_keep(list(scores), scores, **rules) == kept
