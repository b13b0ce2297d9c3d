"""A run with checkpoints of random parameters, of a task whose answers are the last words of lines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from t5x_lite import sharding
from t5x_lite.checkpoints import manager
from t5x_lite.data import vocabulary
from t5x_lite.models import architectures
from t5x_lite.training import state as training_state

CONFIG = tiny.config(vocab_size=128)
LENGTHS = {'inputs': 20, 'targets': 4}
LINES = ['a red fish', 'two blue fish', 'one bird', 'red', 'a bird and a fish'] * 2
TASKS = """
import seqio
from t5x_lite.data import sources, vocabulary

VOCABULARY = vocabulary.load({vocabulary!r})
FEATURES = {{name: seqio.Feature(VOCABULARY) for name in ('inputs', 'targets')}}
LINES = {lines!r}


def rows(split):
  return {{'inputs': LINES, 'targets': [line.split()[-1] for line in LINES]}}


def exact(targets, predictions):
  return {{'exact': sum(t == p for t, p in zip(targets, predictions)) / len(targets)}}


seqio.TaskRegistry.add(
  'last_word',
  source=sources.RowsDataSource(rows, ('train', 'validation')),
  preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
  output_features=FEATURES,
  metric_fns=[exact],
)
seqio.TaskRegistry.add(
  'of_other_vocabulary',
  source=sources.RowsDataSource(rows, ('train', 'validation')),
  preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
  output_features={{name: seqio.Feature(seqio.ByteVocabulary()) for name in FEATURES}},
)
"""


def write(folder):
  """Writes a run as `t5x-lite train` leaves it, with checkpoints 0 and 20."""
  words = vocabulary.train_sentencepiece(
    LINES * 20, folder / 'words.model', vocab_size=28, num_sentinels=4
  )
  module = folder.parent / 'last_word_tasks.py'
  module.write_text(TASKS.format(vocabulary=str(folder / 'vocabulary'), lines=LINES))
  write_model(folder, CONFIG, words, task='last_word', modules=[str(module)])


def write_model(folder, config, words, task, modules=(), lengths=LENGTHS):
  """Writes the vocabulary and checkpoints 0 and 20 of a model.

  Args:
    folder: of the run.
    config: `T5Config`.
    words: the vocabulary.
    task: on which it says that it was trained.
    modules: of the task.
    lengths: with which.
  """
  vocabulary.save(words, folder / 'vocabulary')
  mesh = sharding.make_mesh(sharding.data_parallel())
  abstract = training_state.abstract_params(architectures.create(config), mesh, sharding.RULES)
  metadata = {
    'model': dataclasses.asdict(config),
    'vocabulary': vocabulary.fingerprint(words),
    'mixture_or_task_name': task,
    'task_feature_lengths': lengths,
    'modules': modules,
    'gin': '',
  }
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    for step in (0, 20):
      checkpoints.save(step, {'params': random_params(abstract, step)}, metadata=metadata)


def random_params(abstract, seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), abstract)
