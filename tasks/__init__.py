"""The task registry: importing it registers every family of tasks with seqio."""

import t5x_lite.data  # noqa: F401  First, since it keeps TensorFlow quiet and off the accelerators.
from t5x_lite.tasks import quickstart as quickstart
