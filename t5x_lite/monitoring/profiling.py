"""A profile of some steps, for TensorBoard and Perfetto."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence

import jax


class ProfileWindow:
  """Records from the start of one step to the end of another.

  TensorBoard's profile plugin finds the trace in MODEL_DIR/tensorboard; for ui.perfetto.dev there is
  a `perfetto_trace.json.gz` beside it.
  """

  def __init__(self, steps: Sequence[int] | None, model_dir, say: Callable[[str], None]):
    """Records nothing yet.

    Args:
      steps: (first, last), counted from 1; None for no profile.
      model_dir: the run's folder.
      say: takes one line.
    """
    self._first, self._last = steps or (None, None)
    self._folder = pathlib.Path(model_dir) / 'tensorboard' / 'train'
    self._say = say
    self._recording = False

  @contextlib.contextmanager
  def step(self, step: int):
    """Names the step that is started inside."""
    if step == self._first:
      jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
      self._recording = True
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      yield

  def stepped(self, step: int):
    """Says that a step is done on the devices."""
    if step == self._last:
      self.close()

  def close(self):
    """Writes what was recorded."""
    if not self._recording:
      return
    self._recording = False
    try:
      jax.profiler.stop_trace()
    except (OSError, RuntimeError) as error:
      self._say(f'the profile could not be written to {self._folder}: {error}')
    else:
      self._say(f'the profile of steps {self._first} to {self._last} is in {self._folder}')
