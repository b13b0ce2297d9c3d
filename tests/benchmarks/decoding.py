"""Compares the decoding of t5x_lite and of its peers, in turns, on one machine.

  python tests/benchmarks/decoding.py                      all of it, some twenty minutes on two cores
  python tests/benchmarks/decoding.py --peers hugging_face_flax --models t5_1_1

The work is T5 small with random weights: 8 inputs of 128 tokens, 64 new tokens forced, greedily and with 4 beams. All
compute in float32; ours does so with its weights in bfloat16 and int8, too. Each peer gets an environment of its own,
made once in --folder, and each measurement a process of its own; the peers take turns, so that whatever else the machine
does slows all of them. Not part of the tests.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
# What a peer needs: the last releases that have it and run.
REQUIREMENTS = {
  'hugging_face_flax': ('transformers==4.57.6', 'jax==0.10.2', 'flax==0.12.8', 'sentencepiece'),
  'hugging_face_torch': ('transformers==5.23.0', 'torch==2.13.0'),
}
WAYS = ('greedy', 'beams')
# Of ours.
WEIGHTS = {'t5x_lite': 'None', 't5x_lite, bfloat16': 'bfloat16', 't5x_lite, int8': 'int8'}


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--peers', nargs='*', default=list(REQUIREMENTS), choices=list(REQUIREMENTS))
  parser.add_argument('--models', nargs='*', default=['t5_1_0', 't5_1_1'])
  parser.add_argument('--processes', type=int, default=3, help='of each; figures are medians')
  parser.add_argument('--batches', type=int, default=5, help='timed in each process')
  parser.add_argument('--folder', default='~/.cache/t5x_lite/peers', type=os.path.expanduser)
  args = parser.parse_args()
  pythons = {peer: make_environment(peer, pathlib.Path(args.folder)) for peer in args.peers}
  for model in args.models:
    found = {}
    for _ in range(args.processes):
      for name, figures in measure(model, pythons, args.batches):
        for way in WAYS:
          found.setdefault((name, way), []).append(figures[way])
    print(f'{model}, new tokens per second, median (range) of {args.processes} processes')
    for way in WAYS:
      ours = statistics.median(found['t5x_lite', way])
      for name in (*WEIGHTS, *pythons):
        values = found[name, way]
        median = statistics.median(values)
        spread = f'({min(values):.0f} to {max(values):.0f})'
        print(f'  {way:<7} {name:<20} {median:6.0f} {spread:<14} {ours / median:5.2f}', flush=True)


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


def measure(model, pythons, batches):
  """Yields (name, {way: new tokens per second})."""
  command = [sys.executable, '-m', 't5x_lite', 'bench', 'decode', '--json']
  command += [
    f'--gin_file=models/{model}_small.gin',
    '--gin.DTYPE=float32',
    f'--gin.STEPS={batches}',
  ]
  command += ['--gin.SCAN_LAYERS=False', "--gin.TASK_FEATURE_LENGTHS={'inputs': 128}"]
  for name, weights in WEIGHTS.items():
    figures = json.loads(output_of([*command, f'--gin.WEIGHTS={weights}']))
    yield name, {way: figures[f'{way}_new_tokens_per_second'] for way in WAYS}
  for name, python in pythons.items():
    yield name, json.loads(output_of([python, HERE / f'{name}.py', model, str(batches)]))


def output_of(command):
  """The last line that a command prints."""
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(f'{" ".join(map(str, command))}\n{done.stderr[-2000:]}')
  return done.stdout.strip().splitlines()[-1]


if __name__ == '__main__':
  main()
