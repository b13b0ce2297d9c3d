"""Each architecture through `train`, `eval` and `infer`, on real reviews spelled in bytes."""

import json

import byte_runs
import pytest

SHORT = (
  '--gin.TRAIN_STEPS=12', '--gin.EVAL_PERIOD=None', '--gin.INITIAL_CHECKPOINT_PATH=None',
  '--gin.DROPOUT_RATE=0.0', '--gin.LEARNING_RATE=0.03',
)  # fmt: skip
WITHOUT_ENCODER = '--gin.T5Config.num_encoder_layers=0'
LANGUAGE_MODEL = (WITHOUT_ENCODER, '--gin.T5Config.architecture=language_model')
PREFIX_LANGUAGE_MODEL = (WITHOUT_ENCODER, '--gin.T5Config.architecture=prefix_language_model')
PER_LAYER = '--gin.T5Config.position_scheme=relative_bias_per_layer'
ROTARY = '--gin.T5Config.position_scheme=rotary'
LEARNED = '--gin.T5Config.position_scheme=learned'


def train(main, folder, *arguments):
  status, _, printed = main('train', *arguments, f'--gin.MODEL_DIR={folder}')
  assert status == 0, printed
  return printed


def answers(main, folder, questions, *arguments):
  """Returns what `infer` says to lines of text."""
  (folder / 'questions.txt').write_text('\n'.join(questions), encoding='utf-8')
  status, printed, messages = main(
    'infer', f'--gin.MODEL_DIR={folder}', f'--gin.INPUT={folder / "questions.txt"}',
    '--gin.BATCH_SIZE=8', *arguments,
  )  # fmt: skip
  assert status == 0, messages
  return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
  'model',
  [
    ('--gin.T5Config.architecture=shared_encoder_decoder', PER_LAYER),
    (*LANGUAGE_MODEL, LEARNED, '--gin.T5Config.max_position_embeddings=76'),
    (*PREFIX_LANGUAGE_MODEL, ROTARY),
  ],
  ids=['shared', 'language_model', 'prefix_language_model'],
)
def test_a_model_is_trained_evaluated_and_asked_with_the_same_flags(main, tmp_path, model):
  train(main, tmp_path, *byte_runs.FINETUNE, *SHORT, *model)
  losses = byte_runs.losses(tmp_path)
  assert losses[12] < 0.8 * losses[1]

  status, printed, messages = main('eval', f'--gin.MODEL_DIR={tmp_path}', '--gin.BATCH_SIZE=8')
  assert status == 0, messages
  figures = {line.split()[0]: line.split()[-1] for line in printed.splitlines()[1:]}
  assert 0 < float(figures['byte_sentiment/loss']) < 20
  assert figures['byte_sentiment/accuracy']
  predicted = (tmp_path / 'predictions' / 'byte_sentiment-12.jsonl').read_text().splitlines()
  of_task = [json.loads(line) for line in predicted]
  assert len(of_task) == 20 and {line['targets'] for line in of_task} == {'negative', 'positive'}
  # An input that was not cut is answered alike from a text file; its targets play no part.
  short = [line for line in of_task if len(line['inputs'].encode()) < 64]
  assert short
  for line, answer in zip(
    short, answers(main, tmp_path, [line['inputs'] for line in short]), strict=True
  ):
    assert answer['prediction'] == line['prediction']
    assert answer['score'] == pytest.approx(line['score'], rel=1e-4)


@pytest.mark.slow
def test_a_language_model_learns_whole_texts_and_goes_on_with_one(main, tmp_path):
  arguments = [
    *byte_runs.MODEL,
    '--gin_file=runs/pretrain.gin',
    f'--module={byte_runs.MODULE}',
    '--gin.MIXTURE_OR_TASK_NAME=byte_language_modeling',
    "--gin.TASK_FEATURE_LENGTHS={'targets': 96}",
    '--gin.BATCH_SIZE=8',
    *SHORT,
    *LANGUAGE_MODEL,
    '--gin.EVAL_PERIOD=12',
    '--gin.EVAL_EXAMPLES=8',
  ]
  train(main, tmp_path, *arguments)
  first, last = map(json.loads, (tmp_path / 'metrics' / 'eval.jsonl').read_text().splitlines())
  assert last['byte_language_modeling/loss'] < first['byte_language_modeling/loss']

  status, _, messages = main('infer', f'--gin.MODEL_DIR={tmp_path}', f'--gin.INPUT={tmp_path}/x')
  assert status == 2
  assert "'byte_language_modeling' without inputs" in messages
  lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}"
  [answer] = answers(main, tmp_path, ['a joy to'], lengths)
  assert answer['inputs'] == 'a joy to' and answer['score'] < 0


@pytest.mark.slow
def test_byt5_is_trained_on_bytes(main, tmp_path):
  train(
    main, tmp_path, '--gin_file=models/byt5_tiny.gin', '--gin.DTYPE=float32',
    '--gin_file=runs/pretrain.gin', *byte_runs.SPAN_CORRUPTION, *SHORT,
  )  # fmt: skip
  losses = byte_runs.losses(tmp_path)
  assert losses[12] < losses[1]
  [answer] = answers(main, tmp_path, ['caf\u00e9'])
  assert 'prediction' in answer


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([LEARNED], "position_scheme='learned' needs max_position_embeddings"),
    (
      [LEARNED, '--gin.T5Config.max_position_embeddings=63'],
      '64 positions are more than T5Config.max_position_embeddings=63',
    ),
    (PREFIX_LANGUAGE_MODEL[1:], 'num_encoder_layers=2, but architecture='),
    (
      ['--gin.MIXTURE_OR_TASK_NAME=byte_language_modeling'],
      "a model with an encoder needs 'inputs': train a language model on it",
    ),
    (
      [*LANGUAGE_MODEL, '--gin.MIXTURE_OR_TASK_NAME=byte_language_modeling'],
      "TASK_FEATURE_LENGTHS has a length for 'inputs': leave that out",
    ),
  ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(main, tmp_path, arguments, message):
  run = tmp_path / 'run'
  status, _, printed = main(
    'train', *byte_runs.FINETUNE, *SHORT, *arguments, f'--gin.MODEL_DIR={run}'
  )
  assert status == 2
  assert printed.count('\n') == 1 and message in printed
  assert not run.exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture_is_refused(main, tmp_path):
  train(main, tmp_path / 'one', *byte_runs.FINETUNE, *SHORT, *LANGUAGE_MODEL)
  status, _, printed = main(
    'train', *byte_runs.FINETUNE, *SHORT, *PREFIX_LANGUAGE_MODEL, f'--gin.MODEL_DIR={tmp_path / "two"}',
    f'--gin.INITIAL_CHECKPOINT_PATH={tmp_path / "one"}',
  )  # fmt: skip
  assert status == 2
  assert "architecture='language_model', but this run has" in printed
  status, _, printed = main('convert', tmp_path / 'one', tmp_path / 'folder')
  assert status == 2 and not (tmp_path / 'folder').exists()
  assert "transformers have no T5 with architecture='language_model'" in printed
