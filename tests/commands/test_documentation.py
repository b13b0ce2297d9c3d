"""The commands of the README and of the pages in docs/, as they stand there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from flax import serialization

from t5x_lite.checkpoints import layout, origins

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The README's own test of these is that they are how tests are run and installed.
ELSEWHERE = ('bash launch/', 'pip install')


def blocks(page, language):
  """Returns the code blocks of a page in one language."""
  text = (ROOT / page).read_text(encoding='utf-8')
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def folder(review_files, tmp_path_factory):
  """A reader's working directory: data, the pages' files, and a model to start from."""
  folder = tmp_path_factory.mktemp('reader')
  for name in ('train.jsonl', 'validation.jsonl'):
    shutil.copy(review_files / name, folder)
  (folder / 'my_task.py').write_text(blocks('README.md', 'python')[0], encoding='utf-8')
  (folder / 'my_text.py').write_text(blocks('docs/training.md', 'python')[0], encoding='utf-8')
  (folder / 'my_bytes.py').write_text(
    blocks('docs/architectures.md', 'python')[0], encoding='utf-8'
  )
  (folder / 'my_run.gin').write_text(blocks('docs/training.md', 'gin')[0], encoding='utf-8')
  run(
    folder,
    't5x-lite train --gin_file=quickstart/model.gin --gin_file=runs/pretrain.gin'
    ' --gin.MODEL_DIR=quickstart_runs/pretrain --gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=8'
    ' --gin.MIXTURE_OR_TASK_NAME=quickstart_span_corruption --gin.EVAL_PERIOD=None'
    " --gin.TASK_FEATURE_LENGTHS=\"{'inputs': 64, 'targets': 24}\"",
  )
  write_run_of_t5x(folder / 'quickstart_runs' / 'pretrain', folder)
  return folder


def write_run_of_t5x(run, folder):
  """Writes the parameters of a run as T5X does, and beside them its vocabulary."""
  origin = origins.open_origin(run)
  params = layout.unflatten({name: origin.read(name) for name in origin.shapes})
  content = {'version': 3, 'optimizer': {'target': params, 'state': {'step': 1_000_000}}}
  checkpoint = folder / 't5x_run' / 'checkpoint_1000000'
  checkpoint.mkdir(parents=True)
  (checkpoint / 'checkpoint').write_bytes(serialization.msgpack_serialize(content))
  shutil.copy(run / 'vocabulary' / 'sentencepiece.model', folder)


def run(folder, script):
  """Runs a script as a reader would, this Python's commands first; returns what it printed."""
  path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ['PATH']])
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {'PATH': path}
  done = subprocess.run(
    ['bash', '-euc', script], cwd=folder, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, f'{script}\n{done.stderr}'
  return done.stdout


def scripts(page):
  return [block for block in blocks(page, 'sh') if not block.startswith(ELSEWHERE)]


@pytest.mark.slow
def test_the_readme_leads_from_json_lines_to_answers(folder):
  (script,) = scripts('README.md')
  printed = run(folder, script)
  assert 'review: ' in printed  # Of `tasks show`.
  assert 'my_reviews/accuracy' in printed  # Of `eval`.
  assert '"inputs": "review: a joy to watch", "prediction": ' in printed


@pytest.mark.slow
def test_the_commands_of_the_page_on_training_run(folder):
  for script in scripts('docs/training.md'):
    run(folder, script)
  assert (folder / 'my_pretraining' / 'metrics' / 'train.jsonl').exists()
  assert (folder / 'my_other_run' / 'metrics' / 'eval.jsonl').exists()
  assert 'tensor' in (folder / 'my_sharded_run' / 'sharding.txt').read_text()


@pytest.mark.slow
def test_the_commands_of_the_page_on_checkpoints_run(folder):
  for script in scripts('docs/checkpoints.md'):
    run(folder, script)
  assert (folder / 'my_folder' / 'tokenizer_config.json').exists()
  for name in ('my_run_from_folder', 'my_deeper_run'):
    assert (folder / name / 'checkpoints' / '2').exists()
  assert (folder / 'my_longer_run' / 'checkpoints' / '4').exists()
  assert (folder / 'my_run_from_t5x' / 'checkpoints' / '1000000').exists()


@pytest.mark.slow
def test_the_commands_of_the_page_on_architectures_run(folder):
  printed = [run(folder, script) for script in scripts('docs/architectures.md')]
  assert 'my_reviews/accuracy' in printed[0] and '"inputs": "review: a joy to watch"' in printed[0]
  assert '"inputs": "a joy to", "prediction": ' in printed[1]
  assert (folder / 'my_rotary_model' / 'checkpoints' / '4').exists()


@pytest.mark.slow
def test_the_commands_of_the_page_on_fine_tuning_run(folder):
  for script in scripts('docs/fine_tuning.md'):
    run(folder, script)
  assert (folder / 'my_merged_ia3_model' / 'model.safetensors').exists()
  assert 'trainable parameters' in (folder / 'my_decoder_run' / 'sharding.txt').read_text()
  merged = [
    folder / name / 'model.safetensors' for name in ('my_merged_model', 'my_second_merged_model')
  ]
  assert merged[0].read_bytes() == merged[1].read_bytes()


PAGES = [
  'README.md',
  *(f'docs/{name}.md' for name in ('architectures', 'checkpoints', 'fine_tuning', 'training')),
]


@pytest.mark.parametrize('page', PAGES)
def test_links_and_gin_files_that_a_page_names_exist(page):
  text = (ROOT / page).read_text(encoding='utf-8')
  for link in re.findall(r'\]\((?!https?:)([^)#]+)\)', text):
    assert (ROOT / page).parent.joinpath(link).exists(), link
  for name in re.findall(r'(?:adapters|models|runs|optimizers|quickstart)/\w+\.gin', text):
    assert (ROOT / 'gin_configs' / name).exists(), name
