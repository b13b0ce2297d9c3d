"""Tasks of the benchmark through the commands, on real files: trained as one mixture, evaluated, submitted."""

import json
import sys

import byte_runs
import pytest
import seqio

MIXTURE = """
import functools

import seqio
from t5x_lite.data import metrics, records, texts
from t5x_lite.tasks import mixtures, registration

registration.add_task(
  'my_dialogues',
  records.RecordsDataSource(
    dict.fromkeys(('train', 'validation'), {dialogues!r}),
    records.Layout({{'dialogue': str, 'summary': str}}),
  ),
  functools.partial(texts.summarize, article_key='dialogue', summary_key='summary'),
  metric_fns=[metrics.rouge],
)

NAMES = ('cola', 'sst2', 'mrpc', 'stsb', 'rte', 'wnli', 'qnli')
seqio.MixtureRegistry.add(
  'my_glue', mixtures.proportional(f'glue_{{name}}_v002' for name in NAMES)
)
seqio.MixtureRegistry.add(
  'my_all',
  [('my_glue', 4.0), ('super_glue_wic_v102', 1.0), ('wmt14_ende_v003', 1.0),
   ('rte_instructions_v001', 1.0), ('my_dialogues', 1.0)],
)
"""
LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}"


@pytest.fixture
def data(shared_data):
  return [
    f'--local_data={shared_data}',
    f'--local_data=wmt14_translate/de-en={shared_data}/translation/multi30k',
    f'--local_data=squad/validation={shared_data}/qa/xquad.en.json',
    f'--local_data=super_glue/boolq/validation={shared_data}/superglue/boolq/validation.tsv',
  ]


@pytest.fixture
def module(tmp_path, shared_data):
  dialogues = str(shared_data / 'summarization' / 'dialogsum.dev.jsonl')
  (tmp_path / 'my_mixtures.py').write_text(MIXTURE.format(dialogues=dialogues))
  yield f'--module={tmp_path}/my_mixtures.py'
  sys.modules.pop('my_mixtures', None)
  for name in ('my_glue', 'my_all'):
    if name in seqio.MixtureRegistry.names():
      seqio.MixtureRegistry.remove(name)
  if 'my_dialogues' in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove('my_dialogues')


def figures(printed):
  """{row: value} of the table of one checkpoint."""
  return {line.split()[0]: float(line.split()[1]) for line in printed.splitlines()[1:]}


@pytest.mark.slow
def test_the_benchmark_is_trained_as_one_mixture_and_evaluated_by_either_method(
  main, tmp_path, data, module
):
  run = tmp_path / 'run'
  status, _, messages = main(
    'train', *byte_runs.MODEL, '--gin_file=runs/finetune.gin', module, *data, LENGTHS,
    '--vocabulary=bytes', f'--gin.MODEL_DIR={run}', '--gin.INITIAL_CHECKPOINT_PATH=None',
    '--gin.MIXTURE_OR_TASK_NAME=my_all', '--gin.TRAIN_STEPS=8', '--gin.BATCH_SIZE=16',
    "--gin.EVAL_MIXTURE_OR_TASK_NAME=['glue_rte_v002', 'glue_cola_v002']", '--gin.EVAL_EXAMPLES=16',
    '--gin.MIXING_MAXIMUM=2000', '--gin.PREDICT_BY=ranking', '--gin.loop.EarlyStopping.patience=9',
    '--gin.loop.LoopConfig.early_stopping=@loop.EarlyStopping()',
    '--gin.loop.EarlyStopping.metric=glue/score', '--gin.EVAL_PERIOD=4',
    '--gin.CheckpointManager.keep_best=1', '--gin.CheckpointManager.keep_last=1',
    '--gin.CheckpointManager.best_metric=glue_rte_v002/loss', '--gin.CheckpointManager.best_mode=min',
  )  # fmt: skip
  assert status == 0, messages
  evaluated = (run / 'metrics' / 'eval.jsonl').read_text().splitlines()
  evaluated = [json.loads(line) for line in evaluated]
  assert [line['step'] for line in evaluated] == [0, 4, 8]
  assert all(line['glue/num_tasks'] == 2 for line in evaluated)
  assert evaluated[2]['glue_rte_v002/loss'] < evaluated[0]['glue_rte_v002/loss']

  # The vocabulary is the run's, without anybody saying so.
  evaluate = ['eval', module, *data, f'--gin.MODEL_DIR={run}', '--gin.NUM_EXAMPLES=24']
  status, printed, messages = main(
    *evaluate,
    '--gin.MIXTURE_OR_TASK_NAME=my_glue',
    '--gin.PREDICT_BY=ranking',
    '--gin.BATCH_SIZE=16',
  )
  assert status == 0, messages
  table = figures(printed)
  assert table['glue/num_tasks'] == 7
  for task in ('glue_rte_v002', 'glue_cola_v002', 'glue_qnli_v002'):
    assert table[f'{task}/invalid_predictions'] == 0
  lines = (run / 'predictions' / 'glue_rte_v002-8.jsonl').read_text().splitlines()
  for line in map(json.loads, lines):
    assert line['prediction'] == max(line['label_scores'], key=line['label_scores'].get)
    assert line['score'] == max(line['label_scores'].values())

  names = [
    'super_glue_boolq_v102',
    'super_glue_wic_v102',
    'squad_v010_allanswers',
    'wmt14_ende_v003',
    'my_dialogues',
  ]
  status, printed, messages = main(
    *evaluate, f'--gin.MIXTURE_OR_TASK_NAME={names}', '--gin.BATCH_SIZE=8'
  )
  assert status == 0, messages
  table = figures(printed)
  assert {
    'squad_v010_allanswers/f1',
    'wmt14_ende_v003/bleu',
    'super_glue/score',
    'my_dialogues/rougeLsum',
  } <= set(table)


TEST_SETS = {
  'CoLA': 'index\tsentence\n0\tBill whistled past the house.\n1\tThe car honked its way down.\n',
  'RTE': 'index\tsentence1\tsentence2\n1\tIt rains.\tIt is wet.\n0\tA dog sleeps.\tA cat sleeps.\n',
  'STS-B': 'index\tsentence1\tsentence2\n0\tA girl sings.\tA girl is singing.\n',
}
CB = '{"premise": "It may rain. Does it?", "hypothesis": "It rains", "idx": 0}\n'


@pytest.mark.slow
def test_a_submission_has_the_files_that_the_servers_take(main, tmp_path):
  for name, content in TEST_SETS.items():
    folder = tmp_path / 'glue_data' / name
    folder.mkdir(parents=True)
    (folder / 'test.tsv').write_text(content)
    (folder / 'train.tsv').write_text(
      'gj04\t1\t\tHe went.\n' if name == 'CoLA' else 'sentence1\tsentence2\tlabel\nA.\tB.\t1\n'
    )
  (tmp_path / 'SuperGLUE' / 'CB').mkdir(parents=True)
  (tmp_path / 'SuperGLUE' / 'CB' / 'test.jsonl').write_text(CB)
  data, run = f'--local_data={tmp_path}', tmp_path / 'run'
  status, _, messages = main(
    'train', *byte_runs.MODEL, '--gin_file=runs/finetune.gin', data, LENGTHS, '--vocabulary=bytes',
    f'--gin.MODEL_DIR={run}', '--gin.INITIAL_CHECKPOINT_PATH=None', '--gin.TRAIN_STEPS=1',
    '--gin.MIXTURE_OR_TASK_NAME=glue_cola_v002', '--gin.BATCH_SIZE=8', '--gin.EVAL_PERIOD=None',
  )  # fmt: skip
  assert status == 0, messages
  names = ['glue_cola_v002', 'glue_rte_v002', 'glue_stsb_v002', 'super_glue_cb_v102']
  status, printed, messages = main(
    'eval', '--glue_submission', data, f'--gin.MODEL_DIR={run}', '--gin.BATCH_SIZE=8',
    f'--gin.MIXTURE_OR_TASK_NAME={names}', '--gin.PREDICT_BY=ranking',
  )  # fmt: skip
  assert status == 0, messages
  assert 'warning: CoLA.tsv has 2 predictions, but the test set has 1,063 examples' in printed
  assert 'warning: GLUE.zip lacks SST-2.tsv' in printed
  files = {path.name: path for path in (run / 'submission').iterdir()}
  assert set(files) == {
    'CoLA.tsv', 'RTE.tsv', 'STS-B.tsv', 'GLUE.zip', 'CB.jsonl', 'SuperGLUE.zip'
  }  # fmt: skip
  header, *rows = files['RTE.tsv'].read_text().splitlines()
  assert header == 'index\tprediction'
  assert [row.split('\t')[0] for row in rows] == ['0', '1']
  assert {row.split('\t')[1] for row in rows} <= {'entailment', 'not_entailment'}
  line = json.loads(files['CB.jsonl'].read_text())
  assert line['idx'] == 0 and line['label'] in ('entailment', 'contradiction', 'neutral')


def test_ranking_without_labels_and_a_submission_of_several_checkpoints_are_refused(
  main, tmp_path, module, data
):
  run = tmp_path / 'run'
  train = [
    'train', *byte_runs.MODEL, '--gin_file=runs/finetune.gin', *data, LENGTHS, '--vocabulary=bytes',
    f'--gin.MODEL_DIR={run}', '--gin.INITIAL_CHECKPOINT_PATH=None', '--gin.TRAIN_STEPS=2',
    '--gin.MIXTURE_OR_TASK_NAME=wmt14_ende_v003', '--gin.BATCH_SIZE=8', '--gin.EVAL_PERIOD=None',
    '--gin.CHECKPOINT_PERIOD=1',
  ]  # fmt: skip
  status, _, messages = main(*train)
  assert status == 0, messages
  evaluate = ['eval', *data, f'--gin.MODEL_DIR={run}', '--gin.NUM_EXAMPLES=8', '--gin.BATCH_SIZE=8']
  for arguments, message in (
    (['--gin.PREDICT_BY=ranking'], "PREDICT_BY='ranking' needs a task with labels, and wmt14_ende"),
    (['--gin.PREDICT_BY=rank'], "PREDICT_BY='rank' may be 'generation' or 'ranking'"),
    (['--glue_submission', '--gin.CHECKPOINT=[1, 2]'], '--glue_submission is of one checkpoint'),
    (['--glue_submission', '--gin.MIXTURE_OR_TASK_NAME=glue_rte_v002'], "no split 'test'"),
    (['--glue_submission'], "the leaderboards have no task 'wmt14_ende_v003'"),
    (['--gin.CHECKPOINT=[1, 5]'], 'there are 1, 2'),
  ):
    status, _, messages = main(*evaluate, *arguments)
    assert status == 2
    [line] = [line for line in messages.splitlines() if line.startswith('t5x-lite: error')]
    assert message in line
  status, printed, messages = main(*evaluate, '--gin.CHECKPOINT=[1, 2]')
  assert status == 0, messages
  assert printed.splitlines()[0].split() == ['step', '1', 'step', '2']


@pytest.mark.slow
def test_an_evaluation_has_the_objective_that_its_run_chose(main, tmp_path, shared_data):
  text = shared_data / 'text' / 'c4_500.jsonl'
  data = [f'--local_data=c4/en/{split}={text}' for split in ('train', 'validation')]
  run = tmp_path / 'run'
  train = (
    'train', *byte_runs.MODEL, '--gin_file=runs/pretrain.gin', *data, '--vocabulary=bytes',
    f'--gin.MODEL_DIR={run}', '--gin.MIXTURE_OR_TASK_NAME=c4_v020_unsupervised',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 64}", '--gin.BATCH_SIZE=8',
    '--gin.EVAL_EXAMPLES=16',
  )  # fmt: skip
  chosen = ['--gin.OBJECTIVE=prefix_lm', "--gin.OBJECTIVE_SETTINGS={'suffix_share': 0.25}"]
  status, _, messages = main(*train, *chosen, '--gin.TRAIN_STEPS=2')
  assert status == 0, messages
  evaluated = json.loads((run / 'metrics' / 'eval.jsonl').read_text().splitlines()[-1])
  status, printed, messages = main(
    'eval', *data, f'--gin.MODEL_DIR={run}', '--gin.NUM_EXAMPLES=16', '--gin.BATCH_SIZE=8'
  )
  assert status == 0, messages
  told = figures(printed)['c4_v020_unsupervised/loss']
  assert told == pytest.approx(evaluated['c4_v020_unsupervised/loss'], abs=1e-4)
  # A run that goes on with another has lost its place in the data.
  status, _, messages = main(*train, '--gin.TRAIN_STEPS=4')
  assert status == 2
  assert 'is one of objective=prefix_lm, but this run has objective=span_corruption' in messages
