"""Runs to export, and the Pythons that ask them."""

import bare_python
import pytest
import random_runs
import seqio
import tiny

from t5x_lite import cli
from t5x_lite.data import vocabulary


@pytest.fixture(scope='session')
def python_with_jax(tmp_path_factory):
  return bare_python.make(tmp_path_factory.mktemp('bare') / 'jax', 'jax')


@pytest.fixture(scope='session')
def python_with_jax_and_sentencepiece(tmp_path_factory):
  return bare_python.make(tmp_path_factory.mktemp('bare') / 'texts', 'jax', 'sentencepiece')


@pytest.fixture(scope='module')
def word_run(random_run, tmp_path_factory):
  """Folder of a run with all the ids that its vocabulary has pieces for, and four more."""
  folder = tmp_path_factory.mktemp('words') / 'run'
  words = vocabulary.load(random_run / 'vocabulary')
  config = tiny.config(vocab_size=words.vocab_size + 4)
  random_runs.write_model(folder, config, words, 'words')
  return folder


@pytest.fixture(scope='module')
def byte_run(tmp_path_factory):
  """Folder of a run of a language model on bytes, which knows no inputs."""
  folder = tmp_path_factory.mktemp('bytes') / 'run'
  config = tiny.config(vocab_size=384, num_encoder_layers=0, architecture='language_model')
  vocabulary = seqio.ByteVocabulary(extra_ids=100)
  random_runs.write_model(folder, config, vocabulary, 'bytes', lengths={'targets': 20})
  return folder


@pytest.fixture
def export(tmp_path):
  """Function that runs `t5x-lite export` and returns the folder."""

  def run(model_dir, *arguments):
    folder = tmp_path / 'exported'
    argv = [f'--gin.MODEL_DIR={model_dir}', f'--gin.OUTPUT={folder}', *arguments]
    assert cli.main(['export', *argv]) == 0
    return folder

  return run
