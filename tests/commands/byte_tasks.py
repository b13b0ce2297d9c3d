"""A user's own module for --module: real reviews spelled in bytes, read from $BYTE_TASKS_DIR."""

import functools
import os

import seqio

from t5x_lite.data import metrics, objectives, sources

VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
FILES = {
  split: os.path.join(os.environ['BYTE_TASKS_DIR'], f'{split}.jsonl')
  for split in ('train', 'validation')
}
FEATURES = {
  'inputs': seqio.Feature(VOCABULARY, add_eos=True, required=False),
  'targets': seqio.Feature(VOCABULARY, add_eos=True),
}


@seqio.map_over_dataset
def review_as_targets(example):
  return {'inputs': '', 'targets': example['text']}


@seqio.map_over_dataset
def review_and_label(example):
  return {'inputs': example['text'], 'targets': example['label']}


seqio.TaskRegistry.add(
  'byte_span_corruption',
  source=sources.JsonLinesDataSource(FILES, ['text']),
  preprocessors=[
    review_as_targets,
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    objectives.span_corruption,
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features=FEATURES,
  metric_fns=[],
  shuffle_buffer_size=50,
)

seqio.TaskRegistry.add(
  'byte_sentiment',
  source=sources.JsonLinesDataSource(FILES, ['text', 'label']),
  preprocessors=[
    review_and_label,
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features=FEATURES,
  postprocess_fn=functools.partial(
    metrics.label_to_class_id, label_classes=('negative', 'positive')
  ),
  metric_fns=[metrics.accuracy],
  shuffle_buffer_size=50,
)

seqio.TaskRegistry.add(
  'byte_language_modeling',
  source=sources.JsonLinesDataSource(FILES, ['text']),
  preprocessors=[
    review_as_targets,
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features={'targets': FEATURES['targets']},
  metric_fns=[],
  shuffle_buffer_size=50,
)
