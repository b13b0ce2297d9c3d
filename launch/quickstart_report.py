"""Prints what the runs of launch/quickstart.sh came to, and draws their loss curves.

python launch/quickstart_report.py FOLDER
"""

import json
import math
import pathlib
import sys

from t5x_lite.monitoring import metrics

RUNS = {'pretrain': 'pre-training', 'finetune': 'fine-tuning', 'from_scratch': 'from scratch'}
STAGES = {
  'vocabulary': 'vocabulary',
  **RUNS,
  'baseline': 'TF-IDF with logistic regression',
  'eval': 'evaluation',
  'infer': 'answers',
}
SPAN_CORRUPTION = 'quickstart_span_corruption'
SENTIMENT = 'quickstart_sentiment_rotten_tomatoes'
# Loss curves are drawn as means over so many steps.
STEPS_TO_SMOOTH = 20


def main(folder):
  """Reads the runs in a folder, prints the report and writes loss_curves.png there."""
  folder = pathlib.Path(folder)
  train = {name: _read(folder / name / 'metrics' / 'train.jsonl') for name in RUNS}
  evaluated = {name: _read(folder / name / 'metrics' / 'eval.jsonl') for name in RUNS}
  seconds = dict(line.split('\t') for line in (folder / 'stages.tsv').read_text().splitlines())
  answers = [json.loads(line) for line in (folder / 'answers.jsonl').read_text().splitlines()]
  baseline = json.loads((folder / 'baseline.json').read_text())['accuracy']
  curves = folder / 'loss_curves.png'

  print(quality(evaluated, baseline))
  print()
  print(speed({name: float(value) for name, value in seconds.items()}, train))
  print()
  for answer in answers:
    print(f'{answer["inputs"]}\n  -> {answer["prediction"]} ({math.exp(answer["score"]):.0%} sure)')
  print()
  draw(train, evaluated, curves)
  print(files(folder, curves))


def quality(evaluated, baseline) -> str:
  """Lays out losses and accuracies, which every run measures before its first step and after its last.

  Args:
    evaluated: {run: lines of its evaluations}.
    baseline: accuracy of what the models are compared with.
  """
  pretraining = evaluated['pretrain']
  before, after = (line[f'{SPAN_CORRUPTION}/loss'] for line in (pretraining[0], pretraining[-1]))
  steps = [line['step'] for line in evaluated['finetune'] if line['step']]
  return _table(
    ['', 'before', 'after'],
    ['validation loss of pre-training, nats per token', f'{before:.3f}', f'{after:.3f}'],
  ) + '\n\n' + _table(
    ['accuracy on Rotten Tomatoes sentences', *(f'step {step}' for step in steps)],
    ['fine-tuned from the pre-trained model', *accuracies(evaluated['finetune'])],
    ['trained from scratch', *accuracies(evaluated['from_scratch'])],
    ['to compare: TF-IDF with logistic regression', *[''] * (len(steps) - 1), f'{baseline:.3f}'],
  )  # fmt: skip


def accuracies(lines) -> list[str]:
  """Shares of right answers, of seqio's percentages, at each evaluation after the first step."""
  return [f'{line[f"{SENTIMENT}/accuracy"] / 100:.3f}' for line in lines if line['step']]


def speed(seconds, train) -> str:
  """Lays out the time of each stage, and of training its tokens per second.

  Args:
    seconds: {stage: seconds}.
    train: {run: lines of its training steps}.
  """
  rows = [
    [
      text,
      f'{seconds[name]:.0f}',
      f'{tokens_per_second(train[name]):,.0f}' if name in train else '',
    ]
    for name, text in STAGES.items()
  ]
  return _table(
    ['stage', 'seconds', 'tokens/s'], *rows, ['together', f'{sum(seconds.values()):.0f}', '']
  )


def tokens_per_second(lines) -> float:
  """Tokens of inputs and targets over the time of the steps alone, without compilation."""
  timed = [line for line in lines if line.get('tokens_per_second')]
  seconds = sum(line['tokens'] / line['tokens_per_second'] for line in timed)
  return sum(line['tokens'] for line in timed) / seconds if seconds else math.nan


def files(folder, curves) -> str:
  """Says where things are."""
  return _table(
    ['pre-trained model', str(folder / 'pretrain')],
    ['fine-tuned model', str(folder / 'finetune')],
    ['its predictions', str(folder / 'finetune' / 'predictions')],
    ['model from scratch', str(folder / 'from_scratch')],
    ['answers', str(folder / 'answers.jsonl')],
    ['loss curves', str(curves)],
    align='<',
  )


def draw(train, evaluated, path):
  """Draws the losses of pre-training, and those of both ways to the sentiment, as a PNG.

  Args:
    train, evaluated: {run: lines of its training steps, of its evaluations}.
    path: of the file.
  """
  import matplotlib

  matplotlib.use('agg')  # Needs no display.
  from matplotlib import pyplot

  figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), layout='constrained')
  for panel, title, names, task in (
    (panels[0], 'Pre-training: span corruption', ['pretrain'], SPAN_CORRUPTION),
    (panels[1], 'Sentiment', ['finetune', 'from_scratch'], SENTIMENT),
  ):
    for name in names:
      (line,) = panel.plot(*smoothed(train[name]), label=f'{RUNS[name]}, training')
      panel.plot(
        [each['step'] for each in evaluated[name]],
        [each[f'{task}/loss'] for each in evaluated[name]],
        'o--',
        color=line.get_color(),
        label=f'{RUNS[name]}, validation',
      )
    panel.set(title=title, xlabel='step', ylabel='loss (nats per target token)')
    panel.legend()
  # Sentiment begins at the loss of a guess among 8,192 words: a line that hides all the rest.
  panels[1].set_ylim(0, 1)
  figure.savefig(path, dpi=120)


def smoothed(lines):
  """Returns (steps, losses), each the mean of `STEPS_TO_SMOOTH` steps or of what is left."""
  groups = [lines[i : i + STEPS_TO_SMOOTH] for i in range(0, len(lines), STEPS_TO_SMOOTH)]
  return [
    [sum(line[name] for line in group) / len(group) for group in groups]
    for name in ('step', 'loss')
  ]


def _read(path):
  lines = metrics.read(path)
  if not lines:
    sys.exit(f'{path} is empty: remove the folder and run launch/quickstart.sh again')
  return lines


def _table(*rows, align='>'):
  """Lines up columns of text; all but the first are aligned to the right, or as told."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for first, *rest in rows:
    cells = [f'{cell:{align}{width}}' for cell, width in zip(rest, widths[1:], strict=True)]
    lines.append('  '.join([f'{first:<{widths[0]}}', *cells]).rstrip())
  return '\n'.join(lines)


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(sys.argv[1])
