"""What a task makes of its data before it tokenizes it."""

import seqio


def texts_of(task, split, seed=0):
  """Returns the examples of a split in order, as numpy values."""
  dataset = task.source.get_dataset(split, shuffle=False)
  with seqio.map_seed_manager(seed):
    for preprocessor in task.preprocessors:
      if preprocessor is seqio.preprocessors.tokenize:
        break
      dataset = preprocessor(dataset)
  return list(dataset.as_numpy_iterator())
