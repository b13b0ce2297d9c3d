"""`t5x-lite plan`: what a run would take of devices that need not be there, before it is paid for."""

import typing
from collections.abc import Callable, Mapping

if typing.TYPE_CHECKING:
  from t5x_lite.decoding.options import DecodingConfig
  from t5x_lite.losses import LossConfig
  from t5x_lite.models.config import T5Config
  from t5x_lite.sharding import MeshConfig

HELP = 'compile a run for TPUs that are elsewhere: memory, FLOPs, collectives, the least time'
USES_GIN = True
DEFAULT_GIN_FILES = ('runs/plan.gin',)


def add_arguments(parser):
  """Adds the devices, what they run, and what is to be found out."""
  parser.add_argument(
    '--program',
    choices=('train', 'infer'),
    default='train',
    help='the train step, or reading a batch of inputs and decoding answers to them (default: train)',
  )
  parser.add_argument(
    '--topology',
    help='TPU slice to plan for, such as v5e:16x16, v5p:4x4x4, v6e:8x8 or v4:2x2x1, or several, 2xv5e:16x16, with '
    "the extra 'tpu'; without it the local devices",
  )
  parser.add_argument(
    '--search',
    nargs='?',
    const=14,
    type=int,
    metavar='N',
    help='compile up to N mesh shapes, remat policies, rules and numbers of microbatches (default: 14) of the train step, '
    'and rank those that fit',
  )
  parser.add_argument(
    '--exact',
    action='store_true',
    help='generate code for the TPU, too, which takes minutes in place of seconds, and have the last word on the memory',
  )


def run(args):
  """Plans and prints; returns 1 if it does not fit."""
  import functools

  import jax

  from t5x_lite import configuration, errors

  if args.topology is not None:
    jax.config.update('jax_platforms', 'cpu')  # Accelerators that are here may be in use.
  planned = functools.partial(
    configuration.configured({'train': train, 'infer': infer}[args.program]),
    topology=args.topology,
    exact=args.exact,
  )
  if args.search is None:
    return planned()
  if args.program != 'train':
    raise errors.UserError(f'--search is for --program=train, not for --program={args.program}')
  if args.search < 1:
    raise errors.UserError(f'--search={args.search} must be at least 1')
  return planned(search=args.search)


def train(
  *,
  model: 'T5Config',
  optimizer: Callable,
  learning_rate: Callable | float,
  loss: 'LossConfig',
  mesh: 'MeshConfig',
  batch_size: int,
  task_feature_lengths: Mapping[str, int],
  pack: bool = True,
  num_microbatches: int = 1,
  trainable_parameters: str = '.*',
  topology: str | None = None,
  exact: bool = False,
  search: int | None = None,
) -> int:
  """Compiles the train step and prints what it takes.

  Args:
    model: what to train.
    optimizer: function of a learning rate that returns an optax optimizer.
    learning_rate: schedule, or a rate that stays the same.
    loss: what the loss is made of.
    mesh: the devices.
    batch_size: rows per step, over all devices.
    task_feature_lengths: {'inputs': tokens, 'targets': tokens}.
    pack: whether several short examples share a row.
    num_microbatches: parts of a batch whose gradients are accumulated.
    trainable_parameters: regular expression for the names of the parameters that are trained.
    topology: the TPU slice, see `planning.topologies`; None for the local devices.
    exact: whether code is generated, too, see `planning.estimate.compile_for`.
    search: tries so many ways to divide the step, in place of the one that is configured; None for that one.

  Returns:
    1 if it does not fit into the devices' memory, else 0.
  """
  from t5x_lite.planning import programs, topologies

  step = programs.TrainStep(
    model=model,
    mesh=mesh,
    topology=topology,
    batch_size=batch_size,
    lengths=task_feature_lengths,
    pack=pack,
    optimizer=optimizer,
    learning_rate=learning_rate,
    loss=loss,
    trainable_parameters=trainable_parameters,
    num_microbatches=num_microbatches,
  )
  if search is not None:
    return _search(step, search, exact)
  said, fits = topologies.call(topology, lambda: _report(step, exact))
  print(said)
  return 0 if fits else 1


def _report(step, exact):
  """Returns (what a train step takes, whether it fits)."""
  import time

  from t5x_lite import sharding
  from t5x_lite.planning import estimate, report

  start = time.perf_counter()
  state = step.abstract_state()
  program = step.lower(state)
  compiled, memory = estimate.compile_for(program, step.devices, exact)
  seconds = time.perf_counter() - start
  parts = {name: program.argument_bytes(name) for name in ('parameters', 'optimizer state')}
  rest = 'activations, gradients, the batch and the program'
  said = [
    sharding.report(state),
    f'\n{sharding.summary(state)}; compiled in {seconds:.0f} s\n',
    report.of_memory(memory, compiled, parts, rest),
  ]
  if memory.fits:
    roofline = estimate.roofline(compiled, step.devices, program.model_flops, step.model.dtype)
    said.append(report.of_time('one step', roofline, step.devices))
  return '\n'.join(said), memory.fits


def _search(step, limit, exact):
  """Prints what becomes of the candidates, the fastest and its flags; returns 1 if none fits."""
  from t5x_lite.planning import search

  begun = search.begin(step)
  for reason, shapes in begun.left_out.items():
    print(f'left out {", ".join(map(search.named, shapes))}: {reason}')
  print(search.HEADER, flush=True)
  tried = []
  for each in search.run(step, begun, limit, exact):
    print(each, flush=True)
    tried.append(each)
  ranked = search.fastest(tried)
  print(f'{len(tried)} compiled, {len(ranked)} of them fit')
  if not ranked:
    return 1
  print('\n'.join(['', 'the fastest first', search.HEADER, *map(str, ranked)]))
  print(f'\n{ranked[0].candidate.flags(begun.dcn)}')
  return 0


def infer(
  *,
  model: 'T5Config',
  mesh: 'MeshConfig',
  batch_size: int,
  task_feature_lengths: Mapping[str, int],
  decoding: 'DecodingConfig',
  weights: str | None = None,
  topology: str | None = None,
  exact: bool = False,
) -> int:
  """Compiles what answers a batch of inputs and prints what it takes.

  Args:
    model: what answers.
    mesh: the devices.
    batch_size: inputs at a time, over all devices.
    task_feature_lengths: {'inputs': tokens, 'targets': tokens}, the most of an input and of an answer.
    decoding: how answers are decoded.
    weights: 'bfloat16', 'int8', or None for float32.
    topology: the TPU slice, see `planning.topologies`; None for the local devices.
    exact: see `train`.

  Returns:
    1 if it does not fit into the devices' memory, else 0.
  """
  import dataclasses

  from t5x_lite.decoding import loop, options
  from t5x_lite.planning import programs, topologies

  answering = programs.Answering(
    model=dataclasses.replace(model.for_inference(), scan_layers=False),
    mesh=mesh,
    topology=topology,
    batch_size=batch_size,
    inputs_length=task_feature_lengths['inputs'],
    decoder=decoding.resolve(
      options.TokenIds(model.vocab_size, loop.EOS_ID), task_feature_lengths['targets']
    ),
    weights=weights,
  )
  said, fits = topologies.call(topology, lambda: _report_answering(answering, exact))
  print(said)
  return 0 if fits else 1


def _report_answering(answering, exact):
  """Returns (what answering takes, whether it fits)."""
  import time

  from t5x_lite.planning import estimate, programs, report

  start = time.perf_counter()
  program, cache = answering.lower()
  devices = answering.devices
  compiled, memory = estimate.compile_for(program, devices, exact)
  seconds = time.perf_counter() - start
  reading, token, decoding_loop = compiled.split()
  parts = {
    'parameters': program.argument_bytes('parameters'),
    'cache of keys and values': programs.cache_bytes(cache, decoding_loop),
  }
  axes = ', '.join(f'{axis} {size}' for axis, size in answering.device_mesh.shape.items())
  said = [
    f'{answering.batch_size} inputs on a mesh of {axes}; compiled in {seconds:.0f} s\n',
    report.of_memory(memory, compiled, parts, 'activations, logits, answers and the program'),
  ]
  work = {
    'reading the inputs': (reading, answering.cost.encode_flops),
    'decoding one token of each answer': (token, answering.cost.step_flops),
  }
  for what, (part, flops) in work.items() if memory.fits else ():
    roofline = estimate.roofline(part, devices, flops, answering.model.dtype)
    said.append(report.of_time(what, roofline, devices))
  return '\n'.join(said), memory.fits
