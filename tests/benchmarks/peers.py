"""The work that the peers have in common. Imported in their environments, which do not have t5x_lite."""

import json
import statistics
import time

import numpy as np
import transformers

BATCH_SIZE, INPUTS_LENGTH, NEW_TOKENS, VOCAB_SIZE = 8, 128, 64, 32128
NUM_BEAMS = {'greedy': 1, 'beams': 4}


def config(model):
  """T5 small, 't5_1_0' or 't5_1_1', without dropout."""
  of_1_0 = {'d_ff': 2048, 'num_heads': 8, 'num_layers': 6, 'feed_forward_proj': 'relu'}
  of_1_1 = {'d_ff': 1024, 'num_heads': 6, 'num_layers': 8, 'feed_forward_proj': 'gated-gelu'}
  return transformers.T5Config(
    vocab_size=VOCAB_SIZE,
    d_model=512,
    d_kv=64,
    dropout_rate=0.0,
    decoder_start_token_id=0,
    tie_word_embeddings=model == 't5_1_0',
    **{'t5_1_0': of_1_0, 't5_1_1': of_1_1}[model],
  )


def inputs():
  """Random tokens [BATCH_SIZE, INPUTS_LENGTH], without padding."""
  return np.random.default_rng(0).integers(2, VOCAB_SIZE, (BATCH_SIZE, INPUTS_LENGTH))


def tokens_per_second(generate, batches):
  """New tokens per second, of the median batch after two that are not counted."""
  seconds = []
  for _ in range(batches + 2):
    start = time.perf_counter()
    generate()
    seconds.append(time.perf_counter() - start)
  return BATCH_SIZE * NEW_TOKENS / statistics.median(seconds[2:])


def tell(figures):
  """Prints the figures as the last line."""
  print(json.dumps(figures), flush=True)
