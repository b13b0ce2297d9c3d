"""The task registry: importing it registers every family of tasks with seqio."""

# `data` comes before seqio does: it keeps TensorFlow quiet and off the accelerators.
from t5x_lite import data as data

# isort: split
from t5x_lite.tasks import quickstart as quickstart
