"""Learning rates at literal steps."""

import jax
import numpy as np
import pytest

from t5x_lite import errors
from t5x_lite.training import schedules

CASES = {
  'constant': (schedules.constant(0.5), {0: 0.5, 10**6: 0.5}),
  'inverse_square_root': (
    schedules.inverse_square_root(1.0, 100),
    {0: 0.1, 99: 0.1, 100: 0.1, 400: 0.05, 10_000: 0.01},
  ),
  't5s_pretraining': (schedules.inverse_square_root(), {0: 0.01, 10_000: 0.01, 1_000_000: 0.001}),
  'linear': (
    schedules.linear(2.0, total_steps=10, warmup_steps=4, end=0.5),
    {0: 0.0, 1: 0.5, 4: 2.0, 7: 1.25, 10: 0.5, 11: 0.5, 1000: 0.5},
  ),
  'linear_without_warmup': (
    schedules.linear(1.0, total_steps=4),
    {0: 1.0, 1: 0.75, 4: 0.0, 9: 0.0},
  ),
  'cosine': (
    schedules.cosine(2.0, total_steps=12, warmup_steps=2, end=1.0),
    {0: 0.0, 1: 1.0, 2: 2.0, 7: 1.5, 12: 1.0, 13: 1.0},
  ),
  'cosine_without_warmup': (schedules.cosine(1.0, total_steps=3), {0: 1.0, 1: 0.75, 2: 0.25, 3: 0}),
  'cosine_to_nothing_from_nothing': (schedules.cosine(0.0, total_steps=3), {0: 0.0, 2: 0.0}),
}


@pytest.mark.parametrize('name', CASES)
def test_schedule_has_these_values(name):
  schedule, expected = CASES[name]
  for step, value in expected.items():
    np.testing.assert_allclose(schedule(step), value, rtol=1e-6, atol=1e-8, err_msg=f'{step}')


@pytest.mark.parametrize('name', ['inverse_square_root', 'linear', 'cosine'])
def test_schedule_takes_a_traced_step(name):
  schedule, expected = CASES[name]
  traced = jax.jit(schedule)
  for step, value in expected.items():
    np.testing.assert_allclose(traced(step), value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: schedules.inverse_square_root(1.0, 0), 'warmup_steps must be at least 1, not 0'),
    (lambda: schedules.linear(1.0, 10, 10), r'linear.warmup_steps=10 .* \[0, total_steps=10\)'),
    (lambda: schedules.cosine(1.0, 10, -1), 'cosine.warmup_steps=-1'),
    (lambda: schedules.linear(1.0, 0), 'total_steps=0'),
  ],
)
def test_impossible_steps_are_refused(make, message):
  with pytest.raises(errors.UserError, match=message):
    make()


def test_a_number_is_a_rate_that_stays_and_what_makes_a_schedule_is_none():
  assert schedules.of(0.5)(7) == 0.5
  schedule = schedules.inverse_square_root()
  assert schedules.of(schedule) is schedule
  with pytest.raises(errors.UserError, match='brackets behind it, as in .*constant'):
    schedules.of(schedules.constant)
