"""Training through the command line, on real reviews."""

import json
import shutil

import byte_runs
import pytest

SHORT = ('--gin.TRAIN_STEPS=4', '--gin.EVAL_PERIOD=None')


@pytest.mark.slow
def test_a_run_goes_on_with_another_mesh_and_its_layers_in_another_form(main, tmp_path):
  arguments = (
    'train', *byte_runs.PRETRAIN, '--gin.EVAL_PERIOD=None', '--gin.CHECKPOINT_PERIOD=3',
    '--gin.TRAIN_STEPS=6',
  )  # fmt: skip
  status, _, printed = main(*arguments, f'--gin.MODEL_DIR={tmp_path / "one"}')
  assert status == 0, printed

  (tmp_path / 'other' / 'checkpoints').mkdir(parents=True)
  shutil.copytree(tmp_path / 'one' / 'checkpoints' / '3', tmp_path / 'other' / 'checkpoints' / '3')
  status, _, printed = main(
    *arguments, f'--gin.MODEL_DIR={tmp_path / "other"}', '--gin.MESH=@sharding.fsdp_tensor()',
    '--gin.SCAN_LAYERS=False',
  )  # fmt: skip
  assert status == 0, printed
  assert 'data 1, fsdp 4, tensor 2' in printed and 'at step 3' in printed
  losses = byte_runs.losses(tmp_path / 'one')
  for step, loss in byte_runs.losses(tmp_path / 'other').items():
    assert loss == pytest.approx(losses[step], rel=1e-5)


@pytest.mark.slow
def test_fine_tuning_starts_from_a_checkpoint_and_stops_early(main, tmp_path):
  status, _, printed = main(
    'train', *byte_runs.PRETRAIN, *SHORT, f'--gin.MODEL_DIR={tmp_path / "pretrained"}'
  )
  assert status == 0, printed
  run = tmp_path / 'finetuned'
  status, _, printed = main(
    'train',
    *byte_runs.FINETUNE,
    f'--gin.MODEL_DIR={run}',
    f'--gin.INITIAL_CHECKPOINT_PATH={tmp_path / "pretrained"}',
    '--gin.TRAIN_STEPS=50',
    '--gin.EVAL_PERIOD=2',
    # A model this small answers nothing but noise, so its accuracy stays where it is, at zero.
    '--gin.LoopConfig.early_stopping=@loop.EarlyStopping()',
    '--gin.loop.EarlyStopping.metric=byte_sentiment/accuracy',
    '--gin.loop.EarlyStopping.patience=3',
  )
  assert status == 0, printed
  assert f'starting from the parameters of {tmp_path / "pretrained"}' in printed
  assert 'stopped early at step 6' in printed
  evaluations = (run / 'metrics' / 'eval.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in evaluations] == [0, 2, 4, 6]
  predictions = (run / 'predictions' / 'byte_sentiment-6.jsonl').read_text().splitlines()
  assert len(predictions) == 20
  assert set(json.loads(predictions[0])) >= {'inputs', 'targets', 'prediction'}
  assert (run / 'config.gin').read_text().count('TRAIN_STEPS = 50') == 1
  assert 'token_embedder/embedding' in (run / 'sharding.txt').read_text()


def test_fine_tuning_starts_from_a_folder_of_hugging_face(main, shared_data, tmp_path):
  folder = shared_data / 'golden' / 'hf_tiny' / 't5_1_1'
  shape = {'vocab_size': 512, 'emb_dim': 64, 'num_heads': 4, 'head_dim': 16, 'mlp_dim': 128}
  arguments = [
    'train',
    *byte_runs.FINETUNE,
    *(f'--gin.T5Config.{name}={value}' for name, value in shape.items()),
    f'--gin.INITIAL_CHECKPOINT_PATH={folder}',
    '--gin.TRAIN_STEPS=1',
    '--gin.EVAL_PERIOD=None',
  ]
  status, _, printed = main(*arguments, f'--gin.MODEL_DIR={tmp_path / "run"}')
  assert status == 0, printed
  assert f'starting from the parameters of {folder}' in printed

  other = tmp_path / 'other'
  status, _, printed = main(
    *arguments, f'--gin.MODEL_DIR={other}', '--gin.T5Config.mlp_activations=("silu", "linear")'
  )
  assert status == 2 and printed.count('\n') == 1
  assert "mlp_activations=('gelu', 'linear'), but this run has" in printed
  assert not other.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_nothing_of_it(main, tmp_path):
  status, _, printed = main(
    'train', *byte_runs.FINETUNE, *SHORT, f'--gin.MODEL_DIR={tmp_path}',
    '--gin.INITIAL_CHECKPOINT_PATH=None', '--gin.LEARNING_RATE=1e30', '--gin.CHECKPOINT_PERIOD=1',
  )  # fmt: skip
  assert status == 2
  last = printed.strip().splitlines()[-1]
  assert 'is nan at step' in last or 'is inf at step' in last
  assert 'the last good checkpoint is' in last and 'LEARNING_RATE' in last
  step = int(last.split('at step ')[1].split(';')[0])
  assert max(int(path.name) for path in (tmp_path / 'checkpoints').iterdir()) < step


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--gin.BATCH_SIZE=12'], 'BATCH_SIZE=12 is not divisible by the 8 devices'),
    (['--gin.MIXTURE_OR_TASK_NAME=byte_span_corupt'], 'byte_span_corruption'),
    (['--gin.T5Config.vocab_size=300'], '359 ids, but the model only T5Config.vocab_size=300'),
    (['--gin.INITIAL_CHECKPOINT_PATH=nowhere'], 'there is no such folder'),
    (['--gin.BASE_CHECKPOINT_PATH=nowhere'], 'is for INITIAL_CHECKPOINT_PATH, which is None'),
    (['--gin.GROW_VOCABULARY=True'], 'GROW_VOCABULARY=True needs an INITIAL_CHECKPOINT_PATH'),
    (['--gin.train.clip_global_norm=0.0'], 'clip_global_norm=0.0 must be positive'),
    (['--gin.NUM_MICROBATCHES=0'], 'NUM_MICROBATCHES=0 must be at least 1'),
    (['--gin.LEARNING_RATE=@schedules.constant'], 'LEARNING_RATE=@schedules.constant()'),
    (['--gin.TRAIN_STEPS=0'], 'TRAIN_STEPS=0 must be at least 1'),
    (['--gin.SKIPPED_RECORDS=-1'], 'SKIPPED_RECORDS=-1 must be at least 0'),
    (['--gin.SPIKE_FACTOR=3.0'], 'SPIKE_FACTOR=3.0 is to skip updates, but SKIPPED_UPDATES=0'),
    (['--gin.PROFILE_STEPS=(5, 2)'], 'PROFILE_STEPS=(5, 2) must be None or (first, last)'),
    (['--gin.STALL_SECONDS=0'], 'STALL_SECONDS=0 must be positive'),
    (['--gin.REMAT_POLICY=half'], "remat_policy holds 'half'"),
  ],
)
def test_a_mistake_is_answered_in_one_line_and_makes_nothing(main, tmp_path, arguments, message):
  run = tmp_path / 'run'
  status, _, printed = main(
    'train', *byte_runs.PRETRAIN, *SHORT, f'--gin.MODEL_DIR={run}', *arguments
  )
  assert status == 2
  assert printed.count('\n') == 1 and printed.startswith('t5x-lite: error: ')
  assert message in printed
  assert not run.exists()


def test_a_checkpoint_of_another_model_is_refused_and_stays_as_it_is(main, tmp_path):
  status, _, printed = main('train', *byte_runs.PRETRAIN, *SHORT, f'--gin.MODEL_DIR={tmp_path}')
  assert status == 0, printed
  before = sorted(path for path in (tmp_path / 'checkpoints').rglob('*'))
  status, _, printed = main(
    'train', *byte_runs.PRETRAIN, *SHORT, f'--gin.MODEL_DIR={tmp_path}', '--gin.T5Config.mlp_dim=24'
  )
  assert status == 2
  assert 'mlp/wi_0/kernel' in printed and 'Traceback' not in printed
  assert sorted(path for path in (tmp_path / 'checkpoints').rglob('*')) == before
