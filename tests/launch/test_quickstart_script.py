"""The quickstart, from a vocabulary to answers, in a few steps; and its report."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SENTIMENT = 'quickstart_sentiment_rotten_tomatoes'


def launched(name):
  """A module of launch/."""
  spec = importlib.util.spec_from_file_location(name, ROOT / 'launch' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def report():
  return launched('quickstart_report')


@pytest.fixture
def environment(commands, tmp_path):
  """Variables that make the script use the packages of this Python, and install nothing."""
  if sys.prefix == sys.base_prefix:
    pytest.skip('needs to run in a virtual environment')
  venv = tmp_path / 'venv'
  (venv / 'bin').mkdir(parents=True)
  for path in pathlib.Path(sys.prefix).iterdir():
    if path.name != 'bin' and not path.name.startswith('t5x_lite-'):
      (venv / path.name).symlink_to(path)
  for path in pathlib.Path(sys.prefix, 'bin').iterdir():
    if path.name != 't5x-lite':
      (venv / 'bin' / path.name).symlink_to(path)
  (venv / 'bin' / 't5x-lite').symlink_to(commands.folder / 't5x-lite')
  # What launch/environment.sh leaves behind when it has installed everything.
  stamp = [(ROOT / name).read_text() for name in ('setup.cfg', 'pyproject.toml')]
  (venv / 't5x_lite-quickstart').write_text(''.join(stamp) + f'{ROOT}\n')
  return commands.environment | {'VENV': str(venv), 'PYTHON': sys.executable}


def run(environment, *arguments, **variables):
  return subprocess.run(
    ['bash', ROOT / 'launch' / 'quickstart.sh', *arguments],
    env=environment | variables,
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_the_quickstart_runs_from_a_vocabulary_to_answers_once(environment, tmp_path):
  folder = tmp_path / 'runs'
  done = run(environment, folder, PRETRAIN_STEPS='2', FINETUNE_STEPS='2')
  assert done.returncode == 0, done.stdout + done.stderr
  assert '$ t5x-lite train --gin_file=quickstart/pretrain.gin --gin.TRAIN_STEPS=2 ' in done.stdout
  assert 'accuracy on Rotten Tomatoes sentences' in done.stdout
  assert len((folder / 'answers.jsonl').read_text().splitlines()) == 5
  assert (folder / 'loss_curves.png').read_bytes().startswith(b'\x89PNG')
  assert 'starting from the parameters of' in done.stderr

  again = run(environment, folder, PRETRAIN_STEPS='2', FINETUNE_STEPS='2')
  assert again.returncode == 0, again.stderr
  assert '$ t5x-lite' not in again.stdout
  assert again.stdout.partition('What came out')[2] == done.stdout.partition('What came out')[2]

  other = run(environment, folder, PRETRAIN_STEPS='3')
  assert other.returncode == 1
  assert other.stderr.strip() == (
    f'quickstart.sh: {folder} holds runs with PRETRAIN_STEPS=2 FINETUNE_STEPS=2, not '
    'PRETRAIN_STEPS=3 FINETUNE_STEPS=: remove it, or name another'
  )


def write_lines(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_the_report_shows_what_the_runs_wrote(report, tmp_path, capsys):
  for name, loss, early, late in (('finetune', 0.2, 60.0, 76.9), ('from_scratch', 0.3, 50.0, 70.0)):
    metrics = tmp_path / name / 'metrics'
    write_lines(metrics / 'train.jsonl', {'step': 1, 'loss': 9.0}, {'step': 2, 'loss': loss})
    write_lines(
      metrics / 'eval.jsonl',
      {'step': 0, f'{SENTIMENT}/loss': 9.0, f'{SENTIMENT}/accuracy': 0.0},
      {'step': 1, f'{SENTIMENT}/loss': loss, f'{SENTIMENT}/accuracy': early},
      {'step': 2, f'{SENTIMENT}/loss': loss, f'{SENTIMENT}/accuracy': late},
    )
  metrics = tmp_path / 'pretrain' / 'metrics'
  write_lines(
    metrics / 'train.jsonl',
    {'step': 1, 'loss': 9.0, 'tokens': 500.0},  # The first step is not timed.
    {'step': 2, 'loss': 8.0, 'tokens': 600.0, 'tokens_per_second': 600.0},
    {'step': 3, 'loss': 7.0, 'tokens': 600.0, 'tokens_per_second': 1200.0},
  )
  write_lines(
    metrics / 'eval.jsonl',
    {'step': 0, 'quickstart_span_corruption/loss': 9.0},
    {'step': 3, 'quickstart_span_corruption/loss': 7.25},
  )
  (tmp_path / 'stages.tsv').write_text(''.join(f'{name}\t10\n' for name in report.STAGES))
  (tmp_path / 'baseline.json').write_text('{"accuracy": 0.75}')
  answer = {'inputs': 'sst2 sentence: fun', 'prediction': 'positive', 'score': math.log(0.75)}
  write_lines(tmp_path / 'answers.jsonl', answer)

  report.main(tmp_path)

  printed = [' '.join(line.split()) for line in capsys.readouterr().out.splitlines()]
  assert 'validation loss of pre-training, nats per token 9.000 7.250' in printed
  assert 'accuracy on Rotten Tomatoes sentences step 1 step 2' in printed
  assert 'fine-tuned from the pre-trained model 0.600 0.769' in printed
  assert 'trained from scratch 0.500 0.700' in printed
  assert 'to compare: TF-IDF with logistic regression 0.750' in printed
  assert 'pre-training 10 800' in printed
  assert 'together 70' in printed
  assert '-> positive (75% sure)' in printed
  assert f'loss curves {tmp_path / "loss_curves.png"}' in printed
  assert (tmp_path / 'loss_curves.png').stat().st_size > 10_000


def test_the_baseline_learns_from_one_split_and_is_judged_by_sentences_of_the_other():
  baseline = launched('quickstart_baseline')
  words = ('dull', 'moving')
  reviews = [(f'{words[i % 2]} film {i}', i % 2, 'rotten_tomatoes') for i in range(300)]
  assert baseline.accuracy(reviews) == 1
  wrong = [
    (text, 1 - label if baseline.quickstart.split_of(text) == 'validation' else label, source)
    for text, label, source in reviews
  ]
  assert baseline.accuracy(wrong) == 0
  # Long reviews teach, but do not judge.
  wrong += [(f'{words[i % 2]} and so on {i}', i % 2, 'imdb') for i in range(300)]
  assert baseline.accuracy(wrong) == 0


def test_loss_curves_are_means_of_so_many_steps(report, monkeypatch):
  monkeypatch.setattr(report, 'STEPS_TO_SMOOTH', 2)
  lines = [{'step': step, 'loss': loss} for step, loss in ((1, 6.0), (2, 4.0), (3, 1.0))]
  assert report.smoothed(lines) == [[1.5, 3.0], [5.0, 1.0]]
