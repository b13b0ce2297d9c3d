"""Fine-tuning some parameters, from the command line to a model for transformers."""

import dataclasses
import json
import re

import byte_runs
import numpy as np
import pytest
import seqio
import tiny

from t5x_lite.checkpoints import huggingface, manager, origins
from t5x_lite.data import vocabulary
from t5x_lite.models.config import T5Config

TRAINED = {
  'lora': r'.*/lora_[ab]',
  'ia3': '.*/ia3',
  'prompt': 'prompt/embedding',
  'norms': '.*/(scale|rel_embedding)',
}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """Folder of a run with random parameters, its layers apart."""
  folder = tmp_path_factory.mktemp('base')
  config = T5Config(384, 8, 4, 4, 16, 2, 2, dtype='float32', scan_layers=False)
  bytes_ = seqio.ByteVocabulary(extra_ids=100)
  vocabulary.save(bytes_, folder / 'vocabulary')
  with manager.CheckpointManager(folder / 'checkpoints') as checkpoints:
    metadata = {'model': dataclasses.asdict(config), 'vocabulary': vocabulary.fingerprint(bytes_)}
    checkpoints.save(7, {'params': tiny.params(config)}, metadata=metadata)
  return folder


def finetune(adapter, base, model_dir, *arguments):
  return (
    'train',
    *byte_runs.FINETUNE,
    f'--gin_file=adapters/{adapter}.gin',
    f'--gin.MODEL_DIR={model_dir}',
    f'--gin.INITIAL_CHECKPOINT_PATH={base}',
    '--gin.EVAL_PERIOD=None',
    *arguments,
  )


@pytest.mark.slow
@pytest.mark.parametrize('adapter', TRAINED)
def test_every_kind_trains_what_it_names_and_keeps_nothing_else(main, base, tmp_path, adapter):
  run = tmp_path / 'run'
  length = ('--gin.Prompt.length=4',) if adapter == 'prompt' else ()
  status, _, printed = main(*finetune(adapter, base, run, '--gin.TRAIN_STEPS=2', *length))
  assert status == 0, printed
  checkpoint = origins.open_origin(run)
  saved = checkpoint.manager.saved_params(2)
  assert saved and all(re.fullmatch(TRAINED[adapter], name) for name in saved)
  trainable = sum(int(np.prod(x.shape)) for x in saved.values())
  assert f' {trainable:,} of them trainable' in printed
  before = origins.open_origin(base)
  assert checkpoint.metadata['base']['path'] == str(base / 'checkpoints' / '7')
  for name in before.shapes:
    is_same = np.array_equal(checkpoint.read(name), before.read(name))
    assert is_same == (adapter != 'norms' or not re.fullmatch(TRAINED['norms'], name)), name

  status, printed, errors = main('eval', f'--gin.MODEL_DIR={run}', f'--module={byte_runs.MODULE}')
  assert status == 0, errors
  assert 'byte_sentiment/loss' in printed


@pytest.mark.slow
def test_lora_resumes_is_asked_and_is_merged_for_transformers(main, base, tmp_path):
  def train(run, steps, *arguments):
    status, _, printed = main(
      *finetune(
        'lora',
        base,
        run,
        '--gin.CHECKPOINT_PERIOD=2',
        '--gin.LoRA.dropout_rate=0.2',
        '--gin.schedules.linear.total_steps=4',
        f'--gin.TRAIN_STEPS={steps}',
        *arguments,
      )  # fmt: skip
    )
    return status, printed

  run = tmp_path / 'run'
  assert train(tmp_path / 'undisturbed', 4)[0] == 0
  assert train(run, 2)[0] == 0
  status, printed = train(run, 4)
  assert status == 0 and f'resuming {run} at step 2' in printed
  assert byte_runs.losses(run) == byte_runs.losses(tmp_path / 'undisturbed')

  status, printed = train(run, 6, '--gin.LoRA.alpha=3.0')
  assert status == 2 and 'alpha=16.0' in printed and 'alpha=3.0' in printed
  status, printed = train(run, 6, '--gin.TRAINABLE_PARAMETERS=.*')
  assert status == 2 and "trained with TRAINABLE_PARAMETERS='.*/lora_[ab]'" in printed
  status, printed = train(run, 6, f'--gin.BASE_CHECKPOINT_PATH={tmp_path / "undisturbed"}')
  assert status == 2 and printed.count('sha256') == 2 and printed.count('\n') == 1

  # The same parameters in another format are the same base.
  status, _, errors = main('convert', base, tmp_path / 'folder')
  assert status == 0, errors
  moved = tmp_path / 'moved'
  base.rename(moved)
  try:
    for command in (['eval', f'--gin.MODEL_DIR={run}'], ['convert', run, tmp_path / 'not_there']):
      status, _, printed = main(*command)
      assert status == 2 and 'BASE_CHECKPOINT_PATH' in printed and printed.count('\n') == 1
    (tmp_path / 'questions').write_text('a joy to watch\n')
    status, answers, errors = main(
      'infer', f'--gin.MODEL_DIR={run}', f'--gin.BASE_CHECKPOINT_PATH={tmp_path / "folder"}',
      f'--gin.INPUT={tmp_path / "questions"}',
    )  # fmt: skip
    assert status == 0, errors
    assert json.loads(answers)['inputs'] == 'a joy to watch'
    status, small, errors = main(
      'infer', f'--gin.MODEL_DIR={run}', f'--gin.BASE_CHECKPOINT_PATH={tmp_path / "folder"}',
      f'--gin.INPUT={tmp_path / "questions"}', '--gin.WEIGHTS=int8',
    )  # fmt: skip
    assert status == 0, errors
    exact, near = (json.loads(text)['score'] for text in (answers, small))
    assert exact != near == pytest.approx(exact, rel=0.02)
    status, _, errors = main('convert', run, tmp_path / 'merged', f'--base={moved}')
    assert status == 0, errors
  finally:
    moved.rename(base)

  merged = huggingface.open_folder(tmp_path / 'merged')
  origin = origins.open_origin(run)
  assert merged.shapes.keys() == origins.open_origin(base).shapes.keys()
  for name in merged.shapes:
    expected = origin.read(name)
    if re.fullmatch(r'.*attention/(query|value)/kernel', name):
      a, b = (origin.read(name.replace('kernel', part)) for part in ('lora_a', 'lora_b'))
      assert b.any()
      expected = expected + a @ b * 2
    np.testing.assert_allclose(merged.read(name), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  ('adapter', 'arguments', 'message'),
  [
    ('prompt', ['--gin.PACK=True'], 'set PACK=False'),
    ('lora', ['--gin.LoRA.kernels=.*/q/kernel'], 'matches none of the kernels, which are decoder/'),
    ('lora', ['--gin.INITIAL_CHECKPOINT_PATH=None'], 'needs a base to refer to'),
    ('lora', ['--gin.TRAINABLE_PARAMETERS=.*'], 'takes in all parameters'),
    ('lora', ['--gin.TRAINABLE_PARAMETERS=.*/lora_b'], 'would lose decoder/layers_0/'),
    ('norms', ['--gin.TRAINABLE_PARAMETERS=bias'], "TRAINABLE_PARAMETERS='bias' matches none"),
    ('norms', ['--gin.TRAINABLE_PARAMETERS=encoder/layers_0/.*'], 'set SCAN_LAYERS=False'),
    ('norms', ['--gin.CHECKPOINT_PARAMETERS=some'], "'some' may be 'all' or 'trainable'"),
  ],
)
def test_a_mistake_is_answered_in_one_line_and_makes_nothing(
  main, base, tmp_path, adapter, arguments, message
):
  run = tmp_path / 'run'
  status, _, printed = main(*finetune(adapter, base, run, '--gin.TRAIN_STEPS=2', *arguments))
  assert status == 2
  assert printed.count('\n') == 1 and printed.startswith('t5x-lite: error: ')
  assert message in printed
  assert not run.exists()
