"""A bar on a terminal, lines in a log."""

import io

import pytest

from t5x_lite.monitoring import progress

METRICS = {'loss': 2.3451, 'tokens_per_second': 3456.4, 'steps_per_second': 6.77}


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  """Seconds that pass only when told to."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def test_a_log_gets_plain_lines():
  stream = io.StringIO()
  with progress.Progress(1000, stream=stream) as bar:
    bar.update(120, METRICS)
    bar.message('saved a checkpoint')
  assert stream.getvalue() == (
    'step 120/1000 loss 2.345 tokens/s 3,456 eta 2m10s\nsaved a checkpoint\n'
  )


def test_lines_come_seldom_but_the_first_and_last_always_do():
  stream, clock = io.StringIO(), Clock()
  bar = progress.Progress(100, stream=stream, seconds_between_lines=10, clock=clock)
  for step in range(1, 101):
    clock.now += 0.3
    bar.update(step)
  steps = [line.split()[1] for line in stream.getvalue().splitlines()]
  assert steps == ['1/100', '35/100', '69/100', '100/100']


def test_time_left_is_taken_from_the_run_itself_if_no_speed_is_given():
  stream, clock = io.StringIO(), Clock()
  bar = progress.Progress(100, start_step=40, stream=stream, clock=clock)
  bar.update(40)
  clock.now = 50
  bar.update(60)
  assert stream.getvalue() == 'step 40/100\nstep 60/100 eta 1m40s\n'


def test_an_unknown_total_is_left_out():
  stream = io.StringIO()
  progress.Progress(None, stream=stream).update(7, {'loss': 1.0, 'steps_per_second': 2.0})
  assert stream.getvalue() == 'step 7 loss 1.000\n'


def test_values_that_are_not_known_are_left_out():
  stream = io.StringIO()
  progress.Progress(10, stream=stream, clock=Clock()).update(5, dict.fromkeys(METRICS))
  assert stream.getvalue() == 'step 5/10\n'


def test_a_terminal_gets_a_bar():
  stream = Terminal()
  with progress.Progress(1000, 100, 'pretrain', stream=stream) as bar:
    bar.update(120, METRICS)
    bar.message('saved a checkpoint')
  text = stream.getvalue()
  assert 'pretrain' in text and '\r' in text
  assert 'saved a checkpoint\n' in text
  last = text.rstrip('\n').split('\r')[-1]
  assert '120/1000' in last and 'loss 2.345 tokens/s 3,456 eta 2m10s' in last


def test_a_bar_without_a_total_counts():
  stream = Terminal()
  with progress.Progress(None, stream=stream) as bar:
    bar.update(7, {'loss': 1.0})
  assert 'train 7, loss 1.000' in stream.getvalue()


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0, '0s'), (45.4, '45s'), (59.6, '1m00s'), (130, '2m10s'), (11100, '3h05m'), (187200, '2d04h')],
)
def test_durations_are_said_in_two_units(seconds, text):
  assert progress.duration(seconds) == text
