"""Rates between log points."""

from t5x_lite.monitoring import throughput


class Clock:
  """Seconds that pass only when told to."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def _measured(seconds, **kwargs):
  clock = Clock()
  rates = throughput.Throughput(clock=clock, **kwargs)
  rates.count(target_tokens=10, tokens=40)
  rates.count(target_tokens=20, tokens=50)
  clock.now += seconds
  return clock, rates


def test_rates_are_counts_over_the_time_since_the_last_report():
  clock, rates = _measured(seconds=2)
  expected = {
    'steps_per_second': 1.0,
    'target_tokens_per_second': 15.0,
    'tokens_per_second': 45.0,
    'mfu': None,
  }
  assert rates.report() == expected
  rates.count(steps=4, target_tokens=8)
  clock.now += 4
  report = rates.report()
  assert report['steps_per_second'] == 1.0 and report['target_tokens_per_second'] == 2.0


def test_mfu_is_given_on_devices_with_a_known_peak():
  _, rates = _measured(seconds=2, flops_per_step=3e12, total_peak_flops=12e12)
  assert rates.report()['mfu'] == 0.25


def test_pauses_do_not_count():
  clock, rates = _measured(seconds=2)
  with rates.paused():
    clock.now += 1000
  assert rates.report()['steps_per_second'] == 1.0


def test_a_restart_forgets_the_first_step():
  clock, rates = _measured(seconds=1000)
  rates.restart()
  rates.count(target_tokens=6)
  clock.now += 2
  assert rates.report()['target_tokens_per_second'] == 3.0


def test_nothing_counted_gives_nothing():
  assert set(throughput.Throughput(clock=Clock()).report().values()) == {None}
