"""`t5x-lite train` without gin and TensorFlow, which take longer to start than tests take to train.

    python bare_training.py train --model_dir=... --steps=8

The rest is what `commands.train` makes a run of: the loop, the checkpoints, the streams of data,
here random tokens, and the hosts.
"""

import json
import sys
import time

import numpy as np
import optax
import tiny
from etils import epath

from t5x_lite import cli, losses, sharding
from t5x_lite.checkpoints import manager
from t5x_lite.commands import train
from t5x_lite.decoding import options
from t5x_lite.evaluation import inference
from t5x_lite.hosts import job, streams
from t5x_lite.models import architectures
from t5x_lite.monitoring import progress, report, throughput
from t5x_lite.training import guard, loop, prefetch, run_folder
from t5x_lite.training import state as training_state
from t5x_lite.training import step as training_step

BATCH_SIZE = 8
# Of three examples: in their batch of eight one of four hosts has two, another one, others none.
EVALUATED = {name: np.pad(rows[:3], ((0, 5), (0, 0))) for name, rows in tiny.batch(seed=99).items()}
DECODER = options.DecodingConfig(num_beams=2).resolve(options.TokenIds(32, eos_id=1), 6)


class Tokens:
  """A stream of random rows, of which each step has others."""

  def __init__(self, stream, num_streams):
    self.step, self.stream, self.num_streams = 0, stream, num_streams

  def __next__(self):
    rows = tiny.batch(seed=1000 * self.stream + self.step)
    self.step += 1
    return {name: x[: BATCH_SIZE // self.num_streams] for name, x in rows.items()}

  def get_state(self):
    return str(self.step).encode()

  def set_state(self, state):
    self.step = int(state)


def evaluate(asked, params):
  """Returns the loss, and the score and the tokens of the answer to each row."""
  inputs = EVALUATED['encoder_input_tokens']
  prompts = inference.Prompts(inputs, np.arange(len(inputs), dtype=np.int32))
  [answers] = asked.predict(params, [prompts], DECODER)
  metrics = asked.loss(params, [EVALUATED])
  for row, (tokens, scores) in enumerate(zip(answers.tokens, answers.scores, strict=True)):
    metrics[f'answer/score/{row}'] = float(scores[0])
    for place, token in enumerate(tokens[0]):
      metrics[f'answer/token/{row}/{place}'] = float(token)
  return metrics


def add_arguments(parser):
  parser.add_argument('--model_dir', required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--checkpoint_period', type=int, default=4)
  parser.add_argument('--seconds_per_step', type=float, default=0)
  parser.add_argument('--streams', nargs='*', default=(), help='of a new run, as in checkpoints')
  parser.add_argument('--mesh', type=json.loads, default={}, help='arguments of MeshConfig')


def run(args):
  """Trains, as `commands.train` does."""
  import jax

  model = tiny.config()
  module = architectures.create(model)
  mesh_config = sharding.MeshConfig(**args.mesh)
  mesh = sharding.make_mesh(mesh_config)
  is_writer = jax.process_index() == 0
  optimizer = optax.adam(1e-2)
  folder = run_folder.RunFolder(epath.Path(args.model_dir), is_writer=is_writer)
  folder.make()
  checkpoints = manager.CheckpointManager(f'{args.model_dir}/checkpoints', keep_last=None)
  resumed_step, _ = checkpoints.set_damaged_aside()
  resumed_step = job.agreed(resumed_step)
  saved = args.streams if resumed_step is None else checkpoints.streams(resumed_step)
  rows = sharding.rows_of_hosts(mesh, BATCH_SIZE)
  share = streams.share(rows, jax.process_index(), BATCH_SIZE, saved)

  def put(batch):
    time.sleep(args.seconds_per_step)
    return sharding.put_rows(batch, share.rows, mesh, BATCH_SIZE)

  with (
    folder,
    sharding.activate(mesh, mesh_config.rules),
    checkpoints,
    prefetch.Prefetcher(
      streams.HostBatches(share, Tokens), put, depth=1, snapshot_period=args.checkpoint_period
    ) as batches,
    progress.Progress(args.steps, resumed_step or 0, active=is_writer) as display,
    report.open_report(
      report.ReportConfig(),
      args.model_dir,
      display,
      throughput.Throughput(),
      resumed_step=resumed_step,
      first_step=resumed_step or 0,
      started=None,
      is_writer=is_writer,
      keep=lambda: None,
    ) as told,
  ):
    abstract = training_state.abstract_state(module, optimizer, mesh, mesh_config.rules)
    if resumed_step is None:
      params = training_state.create_params(module, abstract.params, seed=0)
      state = training_state.create(optimizer, params, abstract)
    else:
      state = checkpoints.restore(resumed_step, abstract)
      batches.set_state(checkpoints.batches_state(resumed_step, share.names))
    asked = inference.Inference(model, mesh, mesh_config.rules)
    state, reason = loop.train(
      state,
      training_step.jit_train_step(
        abstract,
        sharding.batch_sharding(mesh),
        model=module,
        optimizer=optimizer,
        loss_config=losses.LossConfig(),
        schedule=lambda step: 1e-2,
        seed=0,
      ),
      batches,
      loop.LoopConfig(
        args.steps,
        eval_period=args.checkpoint_period,
        checkpoint_period=args.checkpoint_period,
      ),
      guard=guard.GuardConfig(),
      folder=folder,
      checkpoints=checkpoints,
      metadata={},
      evaluate=lambda state, step: evaluate(asked, state.params),
      report=told,
    )
    display.message(f'{reason} at step {int(state.step)}')
  return 75 if reason == 'terminated' else 0


train.USES_GIN = False
train.add_arguments = add_arguments
train.run = run

if __name__ == '__main__':
  sys.exit(cli.main())
