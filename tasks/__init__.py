"""The task registry: importing it registers every family of tasks with seqio."""

# `data` comes before seqio does: it keeps TensorFlow quiet and off the accelerators.
from t5x_lite import data as data

# isort: split
from t5x_lite.tasks import c4 as c4
from t5x_lite.tasks import closed_book_qa as closed_book_qa
from t5x_lite.tasks import glue as glue
from t5x_lite.tasks import instructions as instructions
from t5x_lite.tasks import quickstart as quickstart
from t5x_lite.tasks import squad as squad
from t5x_lite.tasks import summarization as summarization
from t5x_lite.tasks import super_glue as super_glue
from t5x_lite.tasks import translation as translation

# isort: split
# After the tasks that they are made of.
from t5x_lite.tasks import mixtures as mixtures
