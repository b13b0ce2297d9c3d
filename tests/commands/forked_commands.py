"""Processes of `t5x-lite` forked from one that has done the imports that take longest."""

import multiprocessing
import os
import sys

_IMPORTED = (
  'orbax.checkpoint',
  'seqio',
  't5x_lite.checkpoints.manager',
  't5x_lite.data.batches',
  't5x_lite.evaluation.evaluator',
  't5x_lite.monitoring.report',
  't5x_lite.monitoring.tensorboard_events',
  't5x_lite.training.loop',
  't5x_lite.training.step',
  'tensorflow',
)
_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload(list(_IMPORTED))


def start(arguments, environment, printed):
  """Starts a command.

  Args:
    arguments: of `t5x-lite`.
    environment: its variables, where they differ from those of this process.
    printed: file for all that it prints.

  Returns:
    The `multiprocessing.Process`; its `exitcode` is None as long as it runs.
  """
  process = _context.Process(target=_run, args=(list(map(str, arguments)), environment, printed))
  process.start()
  return process


def _run(arguments, environment, printed):
  os.environ.update(environment)
  with open(printed, 'w', encoding='utf-8') as file:
    for stream in (1, 2):
      os.dup2(file.fileno(), stream)

  from t5x_lite import cli

  sys.exit(cli.main(arguments))
