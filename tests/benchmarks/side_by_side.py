"""Measures t5x_lite and its peers in turns, on one machine: `train`, `decode` or both.

  python tests/benchmarks/side_by_side.py                  all of it, some forty minutes on two cores
  python tests/benchmarks/side_by_side.py train --peers hugging_face_flax --models t5_1_1

The work is T5 small with random weights in float32, 8 rows. Training: 512 tokens of inputs and 114 of targets, forward,
backward and Adafactor, without dropout. Decoding: inputs of 128 tokens, 64 new tokens forced, greedily and with 4 beams;
ours does so with its weights in bfloat16 and int8, too. Each peer gets an environment of its own, made once in --folder,
and each measurement a process of its own; the peers take turns, so that whatever else the machine does slows all of them.
Not part of the tests.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

HERE = pathlib.Path(__file__).parent
# What a peer needs: the last releases that have it and run.
REQUIREMENTS = {
  'hugging_face_flax': ('transformers==4.57.6', 'jax==0.10.2', 'flax==0.12.8', 'sentencepiece'),
  'hugging_face_torch': ('transformers==5.23.0', 'torch==2.13.0'),
}
OURS = 't5x_lite'


class Figure(NamedTuple):
  """What is compared: how it is called, and written."""

  title: str
  form: str = '.2f'


FIGURES = {
  'train': {
    'step_seconds': Figure('seconds per step'),
    'start_seconds': Figure('seconds from the start to the end of the first step', '.1f'),
    'peak_gib': Figure('peak memory of the process, GiB'),
  },
  'decode': {
    'greedy': Figure('new tokens per second, greedy', '.0f'),
    'beams': Figure('new tokens per second, 4 beams', '.0f'),
  },
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('what', nargs='?', choices=list(FIGURES), help='both if left out')
  parser.add_argument('--peers', nargs='*', default=list(REQUIREMENTS), choices=list(REQUIREMENTS))
  parser.add_argument('--models', nargs='*', default=['t5_1_0', 't5_1_1'])
  parser.add_argument('--processes', type=int, default=3, help='of each; figures are medians')
  parser.add_argument('--steps', type=int, default=5, help='or batches, timed in each process')
  parser.add_argument('--folder', default='~/.cache/t5x_lite/peers', type=os.path.expanduser)
  args = parser.parse_args()
  pythons = {peer: make_environment(peer, pathlib.Path(args.folder)) for peer in args.peers}
  for what in [args.what] if args.what else FIGURES:
    for model in args.models:
      found = {}
      for _ in range(args.processes):
        for name, figures in measure(what, model, pythons, args.steps):
          found.setdefault(name, []).append(figures)
      tell(what, model, found)


def make_environment(peer, folder):
  """Returns the Python of a peer's environment."""
  environment = folder / peer
  python = environment / 'bin' / 'python'
  if not (environment / 'complete').exists():
    subprocess.run([sys.executable, '-m', 'venv', '--clear', environment], check=True)
    install = [python, '-m', 'pip', 'install', '--quiet', *REQUIREMENTS[peer]]
    subprocess.run(install, check=True)
    (environment / 'complete').touch()
  return python


def measure(what, model, pythons, steps):
  """Yields (name, figures) of us and of each peer."""
  command = [sys.executable, '-m', 't5x_lite', 'bench', what, '--json', '--gin.SCAN_LAYERS=False']
  command += [f'--gin_file=models/{model}_small.gin', '--gin.DTYPE=float32', f'--gin.STEPS={steps}']
  if what == 'train':
    figures, _ = output_of(command)
    yield OURS, figures | {'peak_gib': figures['peak_process_bytes'] / 2**30}
  else:
    command += ["--gin.TASK_FEATURE_LENGTHS={'inputs': 128}"]
    for name, weights in {OURS: None, 'bfloat16': 'bfloat16', 'int8': 'int8'}.items():
      figures, _ = output_of([*command, f'--gin.WEIGHTS={weights}'])
      yield name, {way: figures[f'{way}_new_tokens_per_second'] for way in FIGURES[what]}
  for name, python in pythons.items():
    figures, started = output_of([python, HERE / f'{name}.py', what, model, str(steps)])
    if what == 'train':
      figures['start_seconds'] = figures['first_step_at'] - started
      figures['peak_gib'] = figures['peak_bytes'] / 2**30
    yield name, figures


def output_of(command):
  """Returns (the JSON in the last line that a command prints, when it was started)."""
  started = time.time()
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(f'{" ".join(map(str, command))}\n{done.stderr[-2000:]}')
  return json.loads(done.stdout.strip().splitlines()[-1]), started


def tell(what, model, found):
  """Prints medians, ranges, and how often ours is as good."""
  for key, figure in FIGURES[what].items():
    print(f'{model}, {figure.title}: median (range), and ours to it')
    ours = statistics.median(each[key] for each in found[OURS])
    for name, all_figures in found.items():
      values = [each[key] for each in all_figures]
      median = statistics.median(values)
      spread = f'({min(values):{figure.form}} to {max(values):{figure.form}})'
      print(f'  {name:<20} {median:8{figure.form}} {spread:<18} {ours / median:5.2f}', flush=True)


if __name__ == '__main__':
  main()
