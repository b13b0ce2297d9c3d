"""`t5x-lite bench`, on a model so small that only the form of its figures matters."""

import json
import os
import subprocess
import sys
import textwrap

import byte_runs
import pytest

SMALL = (*byte_runs.MODEL, '--gin.STEPS=2', '--gin.BATCH_SIZE=8')
# A machine without TensorFlow: importing it, or what needs it, fails.
WITHOUT_TENSORFLOW = (
  'import sys; sys.modules.update(tensorflow=None, seqio=None); '
  'from t5x_lite import cli; sys.exit(cli.main(sys.argv[1:]))'
)


@pytest.mark.parametrize(
  ('what', 'files'),
  [('train', ()), ('train', ('--gin_file=adapters/lora.gin',)), ('decode', ())],
  ids=['train', 'train-lora', 'decode'],
)
def test_models_are_measured_without_tensorflow(what, files):
  lengths = '{"inputs": 32, "targets": 8}'
  arguments = ['bench', what, '--json', *SMALL, *files, f'--gin.TASK_FEATURE_LENGTHS={lengths}']
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  done = subprocess.run(
    [sys.executable, '-c', WITHOUT_TENSORFLOW, *arguments],
    capture_output=True,
    text=True,
    env=environment,
  )
  assert done.returncode == 0, done.stderr
  figures = json.loads(done.stdout)
  names = ('',) if what == 'train' else ('greedy_', 'sampling_', 'beams_')
  for name in names:
    seconds = figures[f'{name}step_seconds' if what == 'train' else f'{name}batch_seconds']
    assert 0 < seconds < 60 and figures[f'{name}compile_seconds'] > 0
    assert figures[f'{name}flops_per_second'] == pytest.approx(figures[f'{name}flops'] / seconds)
    assert figures[f'{name}mfu'] is None  # Nobody publishes the peak of a CPU.
  if what == 'train':
    assert figures['compile_seconds'] + figures['step_seconds_min'] < figures['start_seconds']
  if what == 'decode':
    assert figures['beams_flops'] > 2 * figures['greedy_flops']
    ratio = figures['beams_batch_seconds'] / figures['greedy_batch_seconds']
    assert figures['beams_to_greedy_seconds'] == pytest.approx(ratio)
  assert figures['parameters'] > 384 * 8 * 2  # Both embeddings and the layers.
  assert figures['peak_process_bytes'] > 2**20


def test_compiling_is_timed_even_if_the_cache_has_what_is_compiled(monkeypatch, tmp_path):
  program = textwrap.dedent("""
    import os
    import jax, numpy as np
    from t5x_lite.commands import bench
    folder = os.environ['JAX_COMPILATION_CACHE_DIR']
    programs = lambda: {file.rpartition('-')[0] for file in os.listdir(folder) if 'jit_' in file}
    functions = [jax.jit(lambda x, i=i: x + i) for i in range(3)]
    functions[0](np.ones(1))
    before = programs()
    compiled, seconds = bench._compile(functions[1], np.ones(1))
    print(len(before), len(programs() - before), compiled(np.ones(1)), seconds > 0)
    functions[2](np.ones(1))
    print(len(programs() - before))
  """)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert done.stdout == '1 0 [2.] True\n1\n', done.stderr


def test_data_is_measured_with_one_and_several_workers(main):
  status, printed, errors = main(
    'bench',
    'data',
    *(*byte_runs.SENTIMENT, '--gin.PACK=False', '--gin.STEPS=2', '--gin.bench.data.seconds=0.1'),
  )
  assert status == 0, errors
  figures = dict(line.split(maxsplit=1) for line in printed.splitlines())
  several = max(2, os.cpu_count())
  for name in ('online_1_worker', f'online_{several}_workers'):
    assert float(figures[f'{name}_rows_per_second'].replace(',', '')) > 0
  assert 0 < float(figures['padding_share']) < 1
  assert not any(name.startswith('cached') for name in figures)


def test_data_needs_a_task(main):
  status, _, errors = main('bench', 'data')
  assert status == 2
  assert '--gin.MIXTURE_OR_TASK_NAME' in errors


def test_data_of_the_tasks_that_come_along_is_found(command):
  process = command('bench', 'data', '--gin.MIXTURE_OR_TASK_NAME=quickstart_span_coruption')
  _, errors = process.communicate()
  assert process.returncode == 2
  assert 'did you mean quickstart_span_corruption' in errors
