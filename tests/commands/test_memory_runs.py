"""Training with everything on that saves memory, and a run without it to compare with."""

import json
import shutil

import byte_runs
import pytest

LARGER = ('--gin.T5Config.emb_dim=64', '--gin.T5Config.mlp_dim=128', '--gin.T5Config.head_dim=16')
ARGUMENTS = (
  *byte_runs.MODEL,
  *LARGER,
  '--gin_file=runs/finetune.gin',
  '--gin_file=optimizers/adamw.gin',
  *byte_runs.SENTIMENT,
  '--gin.BATCH_SIZE=16',
  '--gin.INITIAL_CHECKPOINT_PATH=None',
  '--gin.DROPOUT_RATE=0.0',
  '--gin.TRAIN_STEPS=12',
  '--gin.linear.peak=1e-2',
  '--gin.linear.warmup_steps=4',
  '--gin.EVAL_PERIOD=12',
  '--gin.CHECKPOINT_PERIOD=6',
)
SAVING = (
  '--gin.MESH=@sharding.zero1()',
  '--gin.NUM_MICROBATCHES=2',
  '--gin.adamw.mu_dtype=bfloat16',
  '--gin.MATMUL_DTYPE=float8',
  "--gin.REMAT_POLICY=('context', 'mlp_wi')",
  "--gin.REMAT_OFFLOAD=('layer_input',)",
)


@pytest.mark.slow
def test_a_run_that_saves_memory_learns_as_another_and_goes_on_exactly(main, tmp_path):
  def train(name, *arguments):
    status, _, printed = main('train', *ARGUMENTS, f'--gin.MODEL_DIR={tmp_path / name}', *arguments)
    assert status == 0, printed
    evaluated = (tmp_path / name / 'metrics' / 'eval.jsonl').read_text().splitlines()[-1]
    return byte_runs.losses(tmp_path / name), json.loads(evaluated)

  expected, evaluated = train('plain')
  near, evaluated_near = train('saving', *SAVING)
  assert expected[12] < expected[1] - 1
  assert near == pytest.approx(expected, abs=0.05)
  # Evaluation decodes in float32, whatever the products were trained in.
  name = 'byte_sentiment/loss'
  assert evaluated_near[name] == pytest.approx(evaluated[name], abs=0.05)

  stopped = tmp_path / 'stopped' / 'checkpoints'
  stopped.mkdir(parents=True)
  shutil.copytree(tmp_path / 'saving' / 'checkpoints' / '6', stopped / '6')
  losses, evaluated = train('stopped', *SAVING)
  assert losses == {step: loss for step, loss in near.items() if step > 6}
  assert evaluated[name] == evaluated_near[name]
