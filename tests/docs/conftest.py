"""A reader's working directory, and a shell in it."""

import functools
import json
import shutil

import mesh_tensorflow_writing
import pytest
from flax import serialization
from pages import blocks, run

from t5x_lite.checkpoints import layout, origins

# What a reader saves: on which page, and which of its blocks in that language.
FILES = {
  'my_task.py': ('README.md', 0),
  'my_text.py': ('docs/training.md', 0),
  'my_run.gin': ('docs/training.md', 0),
  'my_bytes.py': ('docs/architectures.md', 0),
  'my_objectives.py': ('docs/objectives.md', 0),
  'my_objective.py': ('docs/objectives.md', 1),
  'my_metrics.py': ('docs/metrics.md', 0),
  'my_mixture.py': ('docs/tasks.md', 0),
  'my_labels.py': ('docs/tasks.md', 1),
  'my_cached_text.py': ('docs/caching.md', 0),
  'my_logits.py': ('docs/inference.md', 0),
}


@pytest.fixture(scope='session')
def folder(review_files, commands, tmp_path_factory):
  """A reader's working directory: data, the pages' files, and a model to start from."""
  folder = tmp_path_factory.mktemp('reader')
  for name in ('train.jsonl', 'validation.jsonl'):
    shutil.copy(review_files / name, folder)
  write_glue(review_files, folder / 'glue_data')
  for name, (page, index) in FILES.items():
    block = blocks(page, 'gin' if name.endswith('.gin') else 'python')[index]
    (folder / name).write_text(block, encoding='utf-8')
  run(
    folder,
    commands,
    't5x-lite train --gin_file=quickstart/model.gin --gin_file=runs/pretrain.gin'
    ' --gin.MODEL_DIR=quickstart_runs/pretrain --gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=8'
    ' --gin.MIXTURE_OR_TASK_NAME=quickstart_span_corruption --gin.EVAL_PERIOD=None'
    " --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 64, 'targets': 24}\"",
  )
  write_as_others_do(folder / 'quickstart_runs' / 'pretrain', folder)
  return folder


@pytest.fixture(scope='session')
def shell(folder, commands):
  """Function that runs a script in the reader's directory and returns what it printed."""
  return functools.partial(run, folder, commands)


def write_glue(reviews, folder):
  """Writes tables in the layouts of GLUE's download, of reviews."""
  for split, file in (('train', 'train'), ('validation', 'dev'), ('validation', 'test')):
    lines = (reviews / f'{split}.jsonl').read_text(encoding='utf-8').splitlines()
    rows = [json.loads(line) for line in lines]
    sentences = [' '.join(row['text'].split()) for row in rows]
    labels = [int(row['label'] == 'positive') for row in rows]
    followed = list(zip(sentences, sentences[1:] + sentences[:1], labels, strict=True))
    tables = {
      'SST-2': ['sentence\tlabel', *(f'{s}\t{label}' for s, _, label in followed)],
      'CoLA': [f'x\t{label}\t\t{s}' for s, _, label in followed],
      'RTE': [
        'index\tsentence1\tsentence2\tlabel',
        *(
          f'{i}\t{s}\t{other}\t{("not_entailment", "entailment")[label]}'
          for i, (s, other, label) in enumerate(followed)
        ),
      ],
    }
    if file == 'test':
      numbered = [f'{i}\t{s}' for i, s in enumerate(sentences)]
      tables = {name: ['index\tsentence', *numbered] for name in ('SST-2', 'CoLA')}
    for name, lines in tables.items():
      (folder / name).mkdir(parents=True, exist_ok=True)
      text = '\n'.join(lines) + '\n'
      (folder / name / f'{file}.tsv').write_text(text, encoding='utf-8')


def write_as_others_do(run, folder):
  """Writes the parameters of a run as T5X and Mesh-TensorFlow do, and beside them its vocabulary."""
  origin = origins.open_origin(run)
  params = {name: origin.read(name) for name in origin.shapes}
  (folder / 't5_release').mkdir()
  variables = mesh_tensorflow_writing.variables_of(params)
  mesh_tensorflow_writing.write(variables, folder / 't5_release', num_files=2)
  target = layout.unflatten(params)
  content = {'version': 3, 'optimizer': {'target': target, 'state': {'step': 1_000_000}}}
  checkpoint = folder / 't5x_run' / 'checkpoint_1000000'
  checkpoint.mkdir(parents=True)
  (checkpoint / 'checkpoint').write_bytes(serialization.msgpack_serialize(content))
  shutil.copy(run / 'vocabulary' / 'sentencepiece.model', folder)
