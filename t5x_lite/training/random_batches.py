"""Batches of random tokens without padding, to measure with and to plan by."""

import numpy as np


def create(config, batch_size: int, lengths, pack: bool = False) -> dict[str, np.ndarray]:
  """Returns the features of a batch, by seqio's names, int32 [batch_size, length].

  Args:
    config: `T5Config`.
    batch_size: rows.
    lengths: tokens of 'inputs', if there are any, and 'targets'.
    pack: whether there are the features of packed rows, each of which is one example here.
  """
  inputs_length, targets_length = lengths.get('inputs', 0), lengths['targets']
  first = 0 if config.has_encoder else inputs_length
  length = first + targets_length
  targets = tokens(config, batch_size, length)
  batch = {
    'decoder_input_tokens': targets,
    'decoder_target_tokens': targets,
    'decoder_loss_weights': _rows(np.arange(length) >= first, batch_size),
  }
  if config.has_encoder:
    batch['encoder_input_tokens'] = tokens(config, batch_size, inputs_length)
  else:
    batch['decoder_causal_attention'] = _rows(np.arange(length) <= inputs_length, batch_size)
  if pack:
    sides = {'decoder': length} | ({'encoder': inputs_length} if config.has_encoder else {})
    for side, of_side in sides.items():
      batch[f'{side}_segment_ids'] = _rows(np.ones(of_side), batch_size)
      batch[f'{side}_positions'] = _rows(np.arange(of_side), batch_size)
  return batch


def tokens(config, batch_size: int, length: int) -> np.ndarray:
  """Returns ids of words, int32 [batch_size, length]."""
  return np.random.default_rng(0).integers(2, config.vocab_size, (batch_size, length), np.int32)


def _rows(row, batch_size):
  return np.tile(row.astype(np.int32), (batch_size, 1))
