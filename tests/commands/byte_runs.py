"""Arguments of small runs on the tasks of byte_tasks.py, and how to read what they leave."""

import json
import pathlib

MODULE = pathlib.Path(__file__).with_name('byte_tasks.py')
MODEL = (
  '--gin_file=models/t5_1_1_tiny.gin',
  '--gin.T5Config.vocab_size=384',
  '--gin.T5Config.head_dim=4',
  '--gin.DTYPE=float32',
)
SPAN_CORRUPTION = (
  f'--module={MODULE}',
  '--gin.MIXTURE_OR_TASK_NAME=byte_span_corruption',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 24}",
  '--gin.BATCH_SIZE=8',
)
SENTIMENT = (
  f'--module={MODULE}',
  '--gin.MIXTURE_OR_TASK_NAME=byte_sentiment',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 12}",
  '--gin.BATCH_SIZE=8',
)
PRETRAIN = (*MODEL, '--gin_file=runs/pretrain.gin', *SPAN_CORRUPTION)
FINETUNE = (*MODEL, '--gin_file=runs/finetune.gin', *SENTIMENT)


def losses(model_dir):
  """Returns {step: loss} of a run; no step may have been written twice."""
  lines = (model_dir / 'metrics' / 'train.jsonl').read_text().splitlines()
  pairs = [(line['step'], line['loss']) for line in map(json.loads, lines)]
  assert len(dict(pairs)) == len(pairs)
  return dict(pairs)
