"""What the tasks of the T5 benchmark have in common."""

from collections.abc import Callable, Sequence

import seqio

from t5x_lite.data import model_vocabulary

FEATURES = {
  'inputs': seqio.Feature(model_vocabulary.MODEL, add_eos=True, required=False),
  'targets': seqio.Feature(model_vocabulary.MODEL, add_eos=True),
}


def add_task(
  name: str,
  source: seqio.DataSource,
  to_text: Callable | Sequence[Callable],
  metric_fns: Sequence[Callable] = (),
  postprocess_fn: Callable | None = None,
  after_caching: Sequence[Callable] = (),
  cacheable: bool = True,
) -> seqio.Task:
  """Registers a task.

  Args:
    name: of the task, with its version.
    source: of the examples.
    to_text: preprocessors that make `inputs` and `targets`, texts, of them.
    metric_fns: functions of targets and predictions.
    postprocess_fn: of a decoded text.
    after_caching: preprocessors of the tokens, which are done anew on what an offline cache holds.
    cacheable: False where `to_text` is not the same in every epoch.
  """
  return seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      *(to_text if isinstance(to_text, Sequence) else [to_text]),
      seqio.preprocessors.tokenize,
      *([seqio.CacheDatasetPlaceholder()] if cacheable else []),
      *after_caching,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=FEATURES,
    postprocess_fn=postprocess_fn,
    metric_fns=list(metric_fns),
  )
