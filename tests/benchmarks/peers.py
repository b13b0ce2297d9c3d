"""The work that the peers have in common. Imported in their environments, which do not have t5x_lite.

    python hugging_face_flax.py train MODEL STEPS
    python hugging_face_flax.py decode MODEL BATCHES

print one line of JSON, see `side_by_side.py`.
"""

import json
import resource
import statistics
import sys
import time

import numpy as np
import transformers

BATCH_SIZE, VOCAB_SIZE = 8, 32128
# Of training: tokens of the inputs and of the targets.
INPUTS_LENGTH, TARGETS_LENGTH = 512, 114
# Of decoding.
PROMPT_LENGTH, NEW_TOKENS = 128, 64
NUM_BEAMS = {'greedy': 1, 'beams': 4}


def config(model):
  """T5 small, 't5_1_0' or 't5_1_1', without dropout."""
  of_1_0 = {'d_ff': 2048, 'num_heads': 8, 'num_layers': 6, 'feed_forward_proj': 'relu'}
  of_1_1 = {'d_ff': 1024, 'num_heads': 6, 'num_layers': 8, 'feed_forward_proj': 'gated-gelu'}
  created = transformers.T5Config(
    vocab_size=VOCAB_SIZE,
    d_model=512,
    d_kv=64,
    dropout_rate=0.0,
    decoder_start_token_id=0,
    **{'t5_1_0': of_1_0, 't5_1_1': of_1_1}[model],
  )
  created.tie_word_embeddings = (
    model == 't5_1_0'
  )  # Transformers 5 makes it True whatever it is given.
  return created


def tokens(length):
  """Random tokens [BATCH_SIZE, length], without padding."""
  return np.random.default_rng(0).integers(2, VOCAB_SIZE, (BATCH_SIZE, length))


def train_figures(step, steps):
  """Runs `step`, a function that returns the loss once all is done, and one time more than is timed."""
  times, losses = [], []
  for _ in range(steps + 1):
    start = time.perf_counter()
    losses.append(float(step()))
    times.append(time.perf_counter() - start)
    if len(times) == 1:
      first_step_at = time.time()
  return {
    'step_seconds': statistics.median(times[1:]),
    'first_step_at': first_step_at,
    'peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    'loss': losses[-1],
  }


def decode_figures(generate, batches):
  """Runs `generate(num_beams)`, for each way two times more than is timed."""
  figures = {}
  for way, num_beams in NUM_BEAMS.items():
    seconds = []
    for _ in range(batches + 2):
      start = time.perf_counter()
      generate(num_beams)
      seconds.append(time.perf_counter() - start)
    figures[way] = BATCH_SIZE * NEW_TOKENS / statistics.median(seconds[2:])
  return figures


def main(train, decode):
  """Measures what the command line says, and prints the figures as the last line."""
  _, what, model, number = sys.argv
  measure = {'train': train, 'decode': decode}[what]
  print(json.dumps(measure(config(model), int(number))), flush=True)
