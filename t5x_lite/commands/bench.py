"""`t5x-lite bench`: how fast a model trains and decodes, and how fast its data comes."""

import typing
from collections.abc import Callable, Mapping

if typing.TYPE_CHECKING:
  from t5x_lite.decoding.options import DecodingConfig
  from t5x_lite.losses import LossConfig
  from t5x_lite.models.config import T5Config
  from t5x_lite.sharding import MeshConfig

HELP = 'measure training, decoding or data: time, memory, FLOPs'
USES_GIN = True
DEFAULT_GIN_FILES = ('runs/bench.gin',)


def add_arguments(parser):
  """Adds what to measure and how to print it."""
  parser.add_argument(
    'what',
    choices=('train', 'decode', 'data'),
    help='the train step, or decoding, both on random tokens, or the batches of a task',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(args):
  """Measures and prints."""
  import json

  import jax

  from t5x_lite import configuration

  measure = {'train': train, 'decode': decode, 'data': data}[args.what]
  measured_from = {'started': args.started} if args.what == 'train' else {}
  figures = configuration.configured(measure)(**measured_from)
  if jax.process_index() > 0:
    return
  if args.json:
    print(json.dumps(figures))
  else:
    width = max(map(len, figures))
    for name, value in figures.items():
      print(f'{name:<{width}}  {_readable(value)}')


def train(
  *,
  model: 'T5Config',
  optimizer: Callable,
  learning_rate: Callable | float,
  loss: 'LossConfig',
  mesh: 'MeshConfig',
  task_feature_lengths: Mapping,
  batch_size: int = 8,
  steps: int = 5,
  num_microbatches: int = 1,
  trainable_parameters: str = '.*',
  started: float | None = None,
):
  """Times the train step on one batch of random tokens without padding.

  Args:
    model: what to measure.
    optimizer: function of a learning rate that returns an optax optimizer.
    learning_rate: schedule, or a rate that stays the same.
    loss: what the loss is made of.
    mesh: the devices.
    batch_size: rows per step, over all devices.
    task_feature_lengths: {'inputs': tokens, 'targets': tokens}.
    steps: steps timed, after one that is not.
    num_microbatches: parts of a batch whose gradients are accumulated.
    trainable_parameters: regular expression for the names of the parameters that are trained.
    started: when the program began, in seconds since 1970, from which the end of the first step is timed; None for now.

  Returns:
    dict of figures, seconds and bytes.
  """
  import time

  started = time.time() if started is None else started
  import jax

  from t5x_lite import sharding
  from t5x_lite.models import architectures
  from t5x_lite.monitoring import flops
  from t5x_lite.training import random_batches, schedules
  from t5x_lite.training import state as training_state
  from t5x_lite.training import step as training_step

  lengths = task_feature_lengths
  devices = sharding.make_mesh(mesh)
  sharding.check_batch_size(batch_size, devices, num_microbatches)
  module = architectures.create(model)
  schedule = schedules.of(learning_rate)
  transformation = optimizer(schedule)
  batch_sharding = sharding.batch_sharding(devices)
  batch = jax.device_put(random_batches.create(model, batch_size, lengths), batch_sharding)
  with sharding.activate(devices, mesh.rules):
    abstract = training_state.abstract_state(
      module,
      transformation,
      devices,
      mesh.rules,
      trainable_parameters,
      mesh.shard_optimizer_state,
    )
    params = training_state.create_params(module, abstract.params, seed=0)
    state = training_state.create(transformation, params, abstract)
    step = training_step.jit_train_step(
      abstract,
      batch_sharding,
      model=module,
      optimizer=transformation,
      loss_config=loss,
      schedule=schedule,
      seed=0,
      num_microbatches=num_microbatches,
      shard_optimizer_state=mesh.shard_optimizer_state,
    )
    compiled, compile_seconds = _compile(step, abstract, batch)

    times = []
    for _ in range(steps + 1):
      start = time.perf_counter()
      state, metrics = compiled(state, batch)
      jax.block_until_ready((state, metrics))
      times.append(time.perf_counter() - start)
      if len(times) == 1:
        start_seconds = time.time() - started
  inputs_length, targets_length = lengths.get('inputs', 0), lengths['targets']
  trained_share = sharding.trainable_share(abstract)
  work = flops.train_step_flops(model, batch_size, inputs_length, targets_length, trained_share)
  seconds = _median(times[1:])
  return {
    'parameters': sum(x.size for x in jax.tree.leaves(state.params)),
    **_times('step', times[1:]),
    'compile_seconds': compile_seconds,
    'start_seconds': start_seconds,
    'tokens_per_second': batch_size * (inputs_length + targets_length) / seconds,
    **_devices(),
    **_work(work, seconds, model.dtype),
    'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
    **_peak_memory(),
    'loss': float(metrics['loss']),
  }


def decode(
  *,
  model: 'T5Config',
  mesh: 'MeshConfig',
  task_feature_lengths: Mapping,
  decodings: Mapping[str, 'DecodingConfig'],
  weights: str | None = None,
  batch_size: int = 8,
  new_tokens: int = 64,
  steps: int = 5,
):
  """Times the decoding of `new_tokens` tokens, whatever they are, for a batch of random inputs.

  The ways to decode take turns, so that whatever else the machine does slows all of them.

  Args:
    model: what to measure.
    mesh: the devices.
    batch_size: inputs, over all devices.
    task_feature_lengths: {'inputs': tokens}.
    decodings: ways to decode, by name.
    weights: 'bfloat16', 'int8', or None for float32.
    new_tokens: tokens decoded; none of them ends an answer.
    steps: batches timed of each, after one that is not.

  Returns:
    dict of figures, seconds and bytes.
  """
  import time

  import jax
  import jax.numpy as jnp
  import numpy as np

  from t5x_lite import sharding
  from t5x_lite.decoding import options
  from t5x_lite.models import architectures, quantization
  from t5x_lite.monitoring import flops
  from t5x_lite.training import random_batches
  from t5x_lite.training import state as training_state

  inputs_length = task_feature_lengths['inputs']
  devices = sharding.make_mesh(mesh)
  sharding.check_batch_size(batch_size, devices)
  decoders = {
    name: decoding.resolve(options.TokenIds(model.vocab_size), new_tokens)
    for name, decoding in decodings.items()
  }
  rows = (
    random_batches.tokens(model, batch_size, inputs_length),
    np.arange(batch_size, dtype=np.int32),
  )
  batch = jax.device_put(rows, sharding.batch_sharding(devices))
  figures, compiled, times = {}, {}, {name: [] for name in decoders}
  with sharding.activate(devices, mesh.rules):
    module = architectures.create(model)
    abstract = training_state.abstract_params(module, devices, mesh.rules)
    figures['parameters'] = sum(x.size for x in jax.tree.leaves(abstract))
    params = training_state.create_params(module, abstract, seed=0)
    params = quantization.keep_all(params, weights)
    figures['parameter_bytes'] = sum(x.nbytes for x in jax.tree.leaves(params))
    for name, decoder in decoders.items():

      def function(params, batch, decoder=decoder):
        return decoder.decode(model, params, *batch, prefix=None)

      compiled[name], figures[f'{name}_compile_seconds'] = _compile(
        jax.jit(function), params, batch
      )
    for _ in range(steps + 1):
      for name, run in compiled.items():
        start = time.perf_counter()
        jax.block_until_ready(run(params, batch))
        times[name].append(time.perf_counter() - start)
  weight_bytes = min(jnp.dtype(kind).itemsize for kind in (model.dtype, weights or 'float32'))
  for name, decoder in decoders.items():
    width = decoder.strategy.samples * decoder.strategy.beams
    cost = flops.decode_cost(
      model, batch_size, inputs_length, new_tokens, width=width, weight_bytes=weight_bytes
    )
    seconds = _median(times[name][1:])
    figures |= {
      **_times(f'{name}_batch', times[name][1:]),
      f'{name}_new_tokens_per_second': batch_size * decoder.num_answers * new_tokens / seconds,
      **_work(cost.flops, seconds, model.dtype, f'{name}_'),
      f'{name}_weight_and_cache_bytes_per_second': cost.steps * cost.step_bytes / seconds,
    }
  first, *others = decoders
  for name in others:
    seconds = [_median(times[each][1:]) for each in (name, first)]
    figures[f'{name}_to_{first}_seconds'] = seconds[0] / seconds[1]
  return figures | {**_devices(), **_peak_memory()}


def data(
  *,
  model: 'T5Config',
  mixture_or_task_name,
  task_feature_lengths,
  batch_size=8,
  steps=5,
  seconds=1.0,
  pack=True,
  use_cached=False,
):
  """Times the batches of a task, as training reads them, on this host alone.

  The task is read as it is (`online`) and, if asked for, from its cache (`cached`); with one worker and with as many
  as there are cores. Workers are the threads in which tf.data reads and preprocesses examples. The four take turns, so
  that whatever else the machine does slows all of them.

  Args:
    model: what they are for.
    mixture_or_task_name: name in the registry.
    task_feature_lengths: {'inputs': tokens, 'targets': tokens}.
    batch_size: rows per batch.
    steps: turns of each, over which figures are medians.
    seconds: length of a turn, before which half as long is not counted, for what was read ahead.
    pack: put several examples into one row.
    use_cached: read the task from its cache, too.

  Returns:
    dict of figures.
  """
  import os
  import time

  import t5x_lite.tasks  # noqa: F401 - registers them
  from t5x_lite.data import batches

  several = max(2, os.cpu_count())
  iterators, first_seconds, turns = {}, {}, {}
  for is_cached in (False, True) if use_cached else (False,):
    dataset = batches.DatasetConfig(
      mixture_or_task_name=mixture_or_task_name,
      task_feature_lengths=task_feature_lengths,
      split='train',
      batch_size=batch_size,
      shuffle=True,
      seed=0,
      pack=pack,
      use_cached=is_cached,
    )
    for workers in (1, several):
      name = f'{"cached" if is_cached else "online"}_{workers}_worker{"s" * (workers > 1)}'
      start = time.perf_counter()
      iterators[name] = batches.train_batches(
        dataset, has_encoder=model.has_encoder, num_threads=workers
      )
      next(iterators[name])
      first_seconds[name] = time.perf_counter() - start
      turns[name] = []
  for _ in range(steps):
    for name, iterator in iterators.items():
      _read(iterator, seconds / 2)
      turns[name].append(_read(iterator, seconds))

  figures = {}
  for name in iterators:
    tokens_per_second = [turn.tokens / turn.seconds for turn in turns[name]]
    rows_per_second = [turn.batches * batch_size / turn.seconds for turn in turns[name]]
    figures |= {
      f'{name}_first_batch_seconds': first_seconds[name],
      f'{name}_rows_per_second': _median(rows_per_second),
      f'{name}_tokens_per_second': _median(tokens_per_second),
      f'{name}_tokens_per_second_min': min(tokens_per_second),
      f'{name}_tokens_per_second_max': max(tokens_per_second),
    }
  speed = {name: figures[f'{name}_tokens_per_second'] for name in iterators}
  for source in ('online', 'cached') if use_cached else ('online',):
    one, more = speed[f'{source}_1_worker'], speed[f'{source}_{several}_workers']
    figures[f'{source}_{several}_workers_to_1'] = more / one
  for workers in ('1_worker', f'{several}_workers') if use_cached else ():
    figures[f'cached_to_online_{workers}'] = speed[f'cached_{workers}'] / speed[f'online_{workers}']
  every = sum(turns.values(), [])
  padding = 1 - sum(turn.tokens for turn in every) / sum(turn.positions for turn in every)
  return figures | {'padding_share': padding, **_peak_memory()}


class _Turn(typing.NamedTuple):
  """What was read in some time: tokens, and positions for tokens, of how many batches."""

  tokens: int
  positions: int
  batches: int
  seconds: float


def _read(iterator, seconds):
  """Reads at least one batch, and others until the time is over."""
  import time

  import numpy as np

  tokens = positions = number = 0
  start = time.perf_counter()
  while (spent := time.perf_counter() - start) < seconds or not number:
    batch = next(iterator)
    number += 1
    for name in {'encoder_input_tokens', 'decoder_target_tokens'} & batch.keys():
      tokens += int(np.count_nonzero(batch[name]))
      positions += batch[name].size
  return _Turn(tokens, positions, number, spent)


def _compile(function, *arguments):
  """Returns (the compiled function, seconds it took without the persistent cache)."""
  import time

  import jax
  from jax.experimental.compilation_cache import compilation_cache

  def use_cache(is_used):
    jax.config.update('jax_enable_compilation_cache', is_used)
    compilation_cache.reset_cache()  # Whether it is used is decided once, and then remembered.

  was_used = jax.config.jax_enable_compilation_cache
  use_cache(False)
  try:
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start
  finally:
    use_cache(was_used)


def _median(values):
  import statistics

  return statistics.median(values)


def _times(what, times):
  return {
    f'{what}_seconds': _median(times),
    f'{what}_seconds_min': min(times),
    f'{what}_seconds_max': max(times),
  }


def _work(work, seconds, dtype, prefix=''):
  """Returns the FLOPs, their rate, and the share of the devices' peak where it is known."""
  import jax

  from t5x_lite.monitoring import flops

  peak = flops.peak_flops(jax.devices()[0].device_kind, dtype)
  return {
    f'{prefix}flops': work,
    f'{prefix}flops_per_second': work / seconds,
    f'{prefix}mfu': None if peak is None else work / seconds / (peak * jax.device_count()),
  }


def _devices():
  import jax

  return {'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}'}


def _peak_memory():
  """Returns the peak of this process and, where the device counts its own memory, of that."""
  import resource
  import sys

  figures = {
    'peak_process_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }
  jax = sys.modules.get('jax')
  statistics = jax.local_devices()[0].memory_stats() if jax else None
  if statistics:
    figures['peak_device_bytes'] = statistics['peak_bytes_in_use']
  return figures


def _readable(value):
  if isinstance(value, float):
    return f'{value:,.4g}' if abs(value) < 1000 else f'{value:,.0f}'
  return f'{value:,}' if isinstance(value, int) else str(value)
