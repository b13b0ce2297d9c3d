"""`t5x-lite convert`: there, back again, and what cannot be converted."""

import dataclasses
import json

import byte_runs
import numpy as np
import pytest
import seqio
import tiny

from t5x_lite import cli
from t5x_lite.checkpoints import huggingface, manager, origins
from t5x_lite.data import vocabulary


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Folder of a run on bytes."""

  folder = tmp_path_factory.mktemp('converted') / 'run'
  (folder / 'vocabulary').mkdir(parents=True)
  words = seqio.ByteVocabulary(extra_ids=100)  # That of byte_tasks.py.
  vocabulary.save(words, folder / 'vocabulary')
  config = tiny.config(vocab_size=384)
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    for step in (3, 5):
      params = tiny.params(config, seed=step)
      metadata = {
        'model': dataclasses.asdict(config),
        'vocabulary': vocabulary.fingerprint(words),
      }
      checkpoints.save(step, {'params': params}, metadata=metadata)
  return folder


def test_the_checkpoint_that_is_named_is_converted(run, tmp_path, capsys):
  for source, step in ((run, 5), (run / 'checkpoints' / '3', 3)):
    folder = tmp_path / str(step)
    assert cli.main(['convert', str(source), str(folder), '--dtype=float16']) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f'{folder}: {run / "checkpoints" / str(step)} for transformers, in float16'
    assert printed[1] == f'transformers.T5ForConditionalGeneration.from_pretrained({str(folder)!r})'
    assert printed[2] == f'transformers.AutoTokenizer.from_pretrained({str(folder)!r})'
    name = 'token_embedder/embedding'
    saved = origins.open_origin(run / 'checkpoints' / str(step)).read(name)
    read = huggingface.open_folder(folder).read(name)
    np.testing.assert_array_equal(read, saved.astype(np.float16), strict=True)


def test_a_folder_of_hugging_face_becomes_a_run_to_train_evaluate_and_infer_from(
  run, tmp_path, main
):
  folder, converted = tmp_path / 'folder', tmp_path / 'converted'
  assert main('convert', run, folder)[0] == 0
  status, printed, _ = main('convert', folder, converted)
  lines = printed.splitlines()
  assert status == 0 and lines[0] == f'{converted}: {folder} as a run, in float32'
  assert lines[1] == f't5x-lite infer --gin.MODEL_DIR={converted}'
  first, again = (origins.open_origin(path) for path in (run, converted))
  for name in first.shapes:
    np.testing.assert_array_equal(again.read(name), first.read(name), strict=True)

  (tmp_path / 'lines.txt').write_text('a joy to watch\n')
  lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 4}"
  status, printed, _ = main(
    'infer', f'--gin.MODEL_DIR={converted}', lengths, f'--gin.INPUT={tmp_path / "lines.txt"}'
  )
  assert status == 0 and json.loads(printed)['inputs'] == 'a joy to watch'
  status, _, error = main('eval', f'--gin.MODEL_DIR={converted}')
  assert status == 2 and 'not trained here: pass --gin.MIXTURE_OR_TASK_NAME=' in error
  module = f'--module={byte_runs.MODULE}'
  task = '--gin.MIXTURE_OR_TASK_NAME=byte_sentiment'
  status, printed, _ = main('eval', module, f'--gin.MODEL_DIR={converted}', task, lengths)
  assert status == 0 and 'byte_sentiment/accuracy' in printed

  train = (
    'train', f'--gin_file={converted}/model.gin', '--gin_file=runs/finetune.gin',
    *byte_runs.SENTIMENT, '--gin.TRAIN_STEPS=2', '--gin.EVAL_PERIOD=None',
    f'--gin.INITIAL_CHECKPOINT_PATH={converted}',
  )  # fmt: skip
  assert main(*train, f'--gin.MODEL_DIR={tmp_path / "trained"}')[0] == 0
  assert (tmp_path / 'trained' / 'checkpoints' / '2').exists()
  status, _, error = main(*train, f'--gin.MODEL_DIR={converted}')
  assert status == 2 and 'holds parameters alone: start a new run from it' in error


def test_the_vocabulary_of_weights_without_one_is_given(run, tmp_path, main, shared_data):
  folder = tmp_path / 'folder'
  original = shared_data / 'golden' / 'hf_tiny' / 't5_1_1'
  assert main('convert', run, folder)[0] == 0
  (folder / huggingface.TOKENIZER).unlink()
  assert 'without a vocabulary' in main('convert', folder, tmp_path / 'without')[1]
  assert 'without a tokenizer' in main('convert', tmp_path / 'without', tmp_path / 'back')[1]
  file = shared_data / 'vocab' / 't5_cc_all_32000_sentencepiece.model'
  status, _, error = main('convert', original, tmp_path / 'out', f'--vocabulary={file}')
  assert status == 2 and 'has 32100 ids, but the model only T5Config.vocab_size=512' in error
  small = tmp_path / 'small.model'
  vocabulary.train_sentencepiece(['a red fish, two blue fish'] * 9, small, vocab_size=120)
  status, printed, _ = main('convert', original, tmp_path / 'out', f'--vocabulary={small}')
  assert status == 0 and 't5x-lite infer' in printed
  assert vocabulary.load(tmp_path / 'out' / 'vocabulary').vocab_size == 120
  assert 'keeps its own' in main('convert', run, tmp_path / 'no', f'--vocabulary={small}')[2]
  assert not (tmp_path / 'no').exists()


def test_what_cannot_be_converted_is_said_in_one_line(run, tmp_path, capsys):
  def error(*arguments):
    assert cli.main(['convert', *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

  assert 'no checkpoint at /nowhere' in error('/nowhere', tmp_path / 'out')
  assert 'is there already' in error(run, run)
  (tmp_path / 'file').touch()
  assert 'cannot write' in error(run, tmp_path / 'file' / 'out')
  assert cli.main(['convert', str(run), str(tmp_path / 'folder')]) == 0
  capsys.readouterr()
  (tmp_path / 'file').write_text('not a model')
  words = f'--vocabulary={tmp_path / "file"}'
  assert 'is no SentencePiece model' in error(tmp_path / 'folder', tmp_path / 'again', words)
  assert not (tmp_path / 'again').exists()
