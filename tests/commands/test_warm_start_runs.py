"""Runs that start from checkpoints, whoever wrote them, through the command line."""

import byte_runs
import numpy as np
import pytest
from flax import serialization

from t5x_lite.checkpoints import layout, origins, storage

SHORT = ('--gin.TRAIN_STEPS=4', '--gin.EVAL_PERIOD=None')


@pytest.mark.slow
def test_a_run_goes_on_with_the_optimizer_state_of_another_whoever_wrote_it(main, tmp_path):
  first = tmp_path / 'first'
  status, _, printed = main('train', *byte_runs.PRETRAIN, *SHORT, f'--gin.MODEL_DIR={first}')
  assert status == 0, printed

  def go_on(name, origin, **settings):
    arguments = [f'--gin.{key}={value}' for key, value in settings.items()]
    return main(
      'train', *byte_runs.PRETRAIN, *SHORT, *arguments,
      f'--gin.MODEL_DIR={tmp_path / name}', f'--gin.INITIAL_CHECKPOINT_PATH={origin}',
    )  # fmt: skip

  theirs = as_t5x_writes_it(first / 'checkpoints' / '4', tmp_path / 'theirs.checkpoint_4')
  for name, origin in (('ours', first), ('theirs', theirs)):
    status, _, printed = go_on(name, origin, RESTORE_OPTIMIZER_STATE=True, TRAIN_STEPS=6)
    assert status == 0, printed
    assert 'going on from step 4 of' in printed and 'done at step 6' in printed
  losses = byte_runs.losses(tmp_path / 'ours')
  assert list(losses) == [5, 6]
  assert byte_runs.losses(tmp_path / 'theirs') == losses
  status, _, printed = go_on('reset', theirs, TRAIN_STEPS=2)
  assert status == 0, printed
  reset = byte_runs.losses(tmp_path / 'reset')
  assert reset[1] == losses[5] and reset[2] != losses[6]  # The same parameters and batches.

  status, _, printed = go_on('no', first, RESTORE_OPTIMIZER_STATE=True, TRAIN_STEPS=4)
  assert status == 2 and 'goes on from step 4 of' in printed and 'nothing to do' in printed
  assert not (tmp_path / 'no').exists()


def as_t5x_writes_it(checkpoint, file):
  """Writes a checkpoint of ours as T5X does where nothing is large enough to factor or to divide."""
  origin = origins.open_origin(checkpoint)
  params = {name: origin.read(name) for name in origin.shapes}
  states = {}
  saved = storage.saved(checkpoint, storage.TRAINING)
  moments = {name: np.float32 for name in saved if name.startswith('opt_state/1/v/')}
  for name, array in storage.read(checkpoint, storage.TRAINING, moments).items():
    moment = {name.removeprefix('opt_state/1/v/'): array.shape}
    for param, piece in layout.apart(moment).items():
      states[f'{param}/v'] = array if piece.index is None else array[piece.index]
      states |= {f'{param}/{slot}': np.zeros(1) for slot in ('m', 'v_row', 'v_col')}
  state = {'step': np.int32(origin.step), 'param_states': layout.unflatten(states)}
  content = {'version': 3, 'optimizer': {'target': layout.unflatten(params), 'state': state}}
  file.write_bytes(serialization.msgpack_serialize(content))
  return file


@pytest.mark.slow
def test_fine_tuning_starts_from_parts_of_a_checkpoint_of_t5x(main, shared_data, tmp_path):
  arguments = [
    'train', *byte_runs.FINETUNE, '--gin.TRAIN_STEPS=1', '--gin.EVAL_PERIOD=None',
    '--gin.T5Config.vocab_size=32256', '--gin.T5Config.head_dim=3',
    f'--gin.INITIAL_CHECKPOINT_PATH={shared_data}/checkpoints/t5x_tiny/test_t5_tiny.checkpoint_0',
  ]  # fmt: skip
  rules = "--gin.ASSIGNMENT_MAP=(('encoder/layers_1/mlp/.*', None),)"
  grow = '--gin.GROW_VOCABULARY=True'
  status, _, printed = main(*arguments, rules, grow, f'--gin.MODEL_DIR={tmp_path / "run"}')
  assert status == 0, printed
  assert 'token_embedder/embedding: 32128 ids of the checkpoint and 128 new ones' in printed
  assert 'new: encoder/layers_1/mlp/wi_0/kernel' in printed
  for missing, message in ((rules, 'embedding [32128, 8] against [32256, 8]'), (grow, 'does noth')):
    given = [rules.replace('mlp', 'nlp'), grow] if missing == grow else [rules]
    status, _, printed = main(*arguments, *given, f'--gin.MODEL_DIR={tmp_path / "no"}')
    assert status == 2 and message in printed and printed.count('\n') == 1
  assert not (tmp_path / 'no').exists()
