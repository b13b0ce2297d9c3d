"""`t5x-lite convert`, of runs whose vocabulary transformers do not have, and of what is no run."""

import dataclasses

import numpy as np
import pytest
import seqio
import tiny

from t5x_lite import cli
from t5x_lite.checkpoints import huggingface, manager, origins
from t5x_lite.data import vocabulary
from t5x_lite.models import encoder_decoder
from t5x_lite.training import state as training_state


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Folder of a run on bytes."""
  from t5x_lite import sharding

  folder = tmp_path_factory.mktemp('converted') / 'run'
  (folder / 'vocabulary').mkdir(parents=True)
  vocabulary.save(seqio.ByteVocabulary(), folder / 'vocabulary')
  config = tiny.config()
  mesh = sharding.make_mesh(sharding.data_parallel())
  module = encoder_decoder.T5(config)
  abstract = training_state.abstract_params(module, mesh, sharding.RULES)
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    for step in (3, 5):
      params = training_state.create_params(module, abstract, seed=step)
      checkpoints.save(step, {'params': params}, metadata={'model': dataclasses.asdict(config)})
  return folder


def test_the_checkpoint_that_is_named_is_converted(run, tmp_path, capsys):
  for source, step in ((run, 5), (run / 'checkpoints' / '3', 3)):
    folder = tmp_path / str(step)
    assert cli.main(['convert', str(source), str(folder), '--dtype=float16']) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f'{folder}: {run / "checkpoints" / str(step)} for transformers, in float16'
    assert printed[1] == f'transformers.T5ForConditionalGeneration.from_pretrained({str(folder)!r})'
    assert printed[2] == 'without a tokenizer: transformers have none for this ByteVocabulary'
    name = 'token_embedder/embedding'
    saved = origins.open_origin(run / 'checkpoints' / str(step)).read(name)
    read = huggingface.open_folder(folder).read(name)
    np.testing.assert_array_equal(read, saved.astype(np.float16), strict=True)


def test_what_cannot_be_converted_is_said_in_one_line(run, tmp_path, capsys):
  def error(*arguments):
    assert cli.main(['convert', *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

  assert 'no checkpoint at /nowhere' in error('/nowhere', tmp_path / 'out')
  assert 'is there already' in error(run, run)
  assert cli.main(['convert', str(run), str(tmp_path / 'out')]) == 0
  capsys.readouterr()
  assert 'is a folder for transformers already' in error(tmp_path / 'out', tmp_path / 'again')
  (tmp_path / 'file').touch()
  assert 'cannot write' in error(run, tmp_path / 'file' / 'out')
  assert not (tmp_path / 'again').exists()
