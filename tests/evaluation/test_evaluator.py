"""Evaluation of seqio tasks on a model of random parameters."""

import functools
import json
import os

import jax
import numpy as np
import pytest
import seqio
import tiny

from t5x_lite import errors
from t5x_lite.data import batches as data_batches
from t5x_lite.data import sources
from t5x_lite.evaluation import evaluator, files, inference
from t5x_lite.models import encoder_decoder

CONFIG = tiny.config(
  vocab_size=384
)  # 384 rows for ByteVocabulary's 259 + 100 ids: the rest mean nothing.
LENGTHS = {'inputs': 60, 'targets': 6}  # So that there are several length buckets.
NUM_EXAMPLES = 19  # Divides by nothing.
WORDS = ('one', 'two', 'three', 'four', 'five')
VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
FEATURES = {name: seqio.Feature(VOCABULARY) for name in ('inputs', 'targets')}


def rows(split):
  del split
  numbers = range(NUM_EXAMPLES)
  return {
    'inputs': [WORDS[i % len(WORDS)] * (1 + 4 * (i % 3)) for i in numbers],
    'targets': [WORDS[(i + 1) % len(WORDS)] for i in numbers],
  }


def exact(targets, predictions):
  return {'exact': float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def mean_score(targets, scores):
  assert len(targets) == len(scores)
  return {'mean_score': seqio.metrics.Scalar(np.mean(scores)), 'num_examples': len(scores)}


def mean_length(targets, predictions, aux_values):
  assert len(aux_values['scores']) == len(predictions) == len(targets)
  return {
    'mean_length': np.mean([len(p) for p in predictions]),
    'mean_prediction_score': np.mean(aux_values['scores']),
    'note': seqio.metrics.Text('no number'),
  }


@pytest.fixture(scope='module', autouse=True)
def tasks():
  names = {'plain': [], 'measured': [exact, mean_score, mean_length]}
  for name, metric_fns in names.items():
    seqio.TaskRegistry.add(
      f'evaluated_{name}',
      source=sources.RowsDataSource(rows, ('train', 'validation')),
      preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
      output_features=FEATURES,
      metric_fns=metric_fns,
    )
  seqio.MixtureRegistry.add('evaluated_mixture', [(f'evaluated_{name}', 1) for name in names])
  yield
  seqio.MixtureRegistry.remove('evaluated_mixture')
  for name in names:
    seqio.TaskRegistry.remove(f'evaluated_{name}')


@functools.cache  # And with the model, what it has compiled.
def model_on(num_devices, ici=(-1, 1, 1)):
  return tiny.inference_on(CONFIG, num_devices, ici)


def make_config(name='evaluated_measured', batch_size=8, **changes):
  return evaluator.EvaluationConfig(name, LENGTHS, batch_size=batch_size, **changes)


@pytest.mark.slow
def test_metrics_are_the_same_on_one_device_and_eight_and_for_any_batch_size():
  results = []
  for num_devices, ici, batch_size in [(1, (-1, 1, 1), 8), (8, (8, 1, 1), 16), (8, (2, 2, 2), 8)]:
    model, params = model_on(num_devices, ici)
    evaluate = evaluator.Evaluator(make_config(batch_size=batch_size), model)
    results.append(evaluate.evaluate(params, 0)['evaluated_measured'])
  assert set(results[0]) == {
    'exact', 'mean_score', 'num_examples', 'mean_length', 'mean_prediction_score',
    'loss', 'z_loss', 'token_accuracy', 'perplexity', 'bits_per_byte',
  }  # fmt: skip
  for other in results[1:]:
    assert other == pytest.approx(results[0], rel=1e-5)
  # Scores of the targets and their loss are the same thing.
  num_tokens = sum(len(word) + 1 for word in rows('validation')['targets'])
  mean_loss = -results[0]['mean_score'] * NUM_EXAMPLES / num_tokens
  assert results[0]['loss'] == pytest.approx(mean_loss, rel=1e-5)
  assert results[0]['perplexity'] == pytest.approx(np.exp(mean_loss), rel=1e-4)
  num_bytes = num_tokens - NUM_EXAMPLES  # A token a byte, and one for EOS.
  bits_per_byte = mean_loss * num_tokens / num_bytes / np.log(2)
  assert results[0]['bits_per_byte'] == pytest.approx(bits_per_byte, rel=1e-5)


@pytest.mark.slow
def test_results_are_the_same_to_the_last_bit_with_as_many_rows_on_each_device(tmp_path):
  results, predictions = [], []
  for num_devices, batch_size in [(1, 2), (8, 16)]:
    model, params = model_on(num_devices)
    folder = tmp_path / str(num_devices)
    evaluate = evaluator.Evaluator(make_config(batch_size=batch_size), model, folder)
    results.append(evaluate.evaluate(params, 0))
    predictions.append((folder / 'evaluated_measured-0.jsonl').read_bytes())
  assert results[0] == results[1]
  assert predictions[0] == predictions[1]


def test_every_task_of_a_mixture_is_evaluated_and_one_without_metrics_gets_its_loss(tmp_path):
  model, params = model_on(1)
  evaluate = evaluator.Evaluator(make_config('evaluated_mixture'), model, tmp_path)
  assert evaluate.tasks == ['evaluated_measured', 'evaluated_plain']
  results = evaluate.evaluate(params, 100)
  assert set(results['evaluated_plain']) == {
    'loss', 'z_loss', 'token_accuracy', 'perplexity', 'bits_per_byte',
  }  # fmt: skip
  assert results['evaluated_plain']['loss'] == pytest.approx(results['evaluated_measured']['loss'])
  assert evaluator.flatten(results)['evaluated_measured/exact'] == 0

  assert [path.name for path in tmp_path.iterdir()] == ['evaluated_measured-100.jsonl']
  lines = (tmp_path / 'evaluated_measured-100.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  assert [line['inputs'] for line in lines] == rows('validation')['inputs']
  assert [line['targets'] for line in lines] == rows('validation')['targets']
  assert all(isinstance(line['prediction'], str) and line['score'] < 0 for line in lines)
  # Equal inputs are decoded alike, in whatever batch they are.
  assert lines[0]['prediction'] == lines[15]['prediction']
  assert lines[0]['score'] == pytest.approx(lines[15]['score'], rel=1e-5)


def test_only_so_many_examples_are_evaluated(tmp_path):
  model, params = model_on(1)
  config = make_config('evaluated_mixture', num_examples=11)
  results = evaluator.Evaluator(config, model, tmp_path).evaluate(params, 0)
  assert results['evaluated_measured']['num_examples'] == 11
  loss = results['evaluated_plain']['loss']
  assert results['evaluated_measured']['loss'] == pytest.approx(loss)
  dataset = data_batches.DatasetConfig('evaluated_plain', LENGTHS, 'validation', 11)
  assert loss == pytest.approx(
    model.loss(params, [next(data_batches.eval_batches(dataset))])['loss']
  )


def test_another_hosts_evaluator_writes_no_predictions(tmp_path):
  model, params = model_on(1)
  evaluator.Evaluator(make_config(), model, tmp_path, is_writer=False).evaluate(params, 0)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'name': 'evaluated_measure'}, 'evaluated_measured'),
    ({'split': 'test'}, "no split 'test'.*'train', 'validation'"),
    ({'batch_size': 12}, 'BATCH_SIZE=12 is not divisible by the 8 devices'),
    ({'num_examples': 0}, 'num_examples=0'),
  ],
)
def test_mistakes_are_named(changes, message):
  model, _ = model_on(8)
  with pytest.raises(errors.UserError, match=message):
    evaluator.Evaluator(make_config(**changes), model)


def test_loss_counts_tokens_not_batches():
  model, params = model_on(1)
  dataset = data_batches.DatasetConfig('evaluated_plain', LENGTHS, 'validation', NUM_EXAMPLES)
  [whole] = data_batches.eval_batches(dataset)
  parts = [{name: x[i : i + 5] for name, x in whole.items()} for i in range(0, NUM_EXAMPLES, 5)]
  filled = [inference.fill_up(part, 8) for part in parts]
  together = model.loss(params, [whole])
  assert model.loss(params, filled) == pytest.approx(together, rel=1e-5)
  logits = jax.jit(encoder_decoder.T5(CONFIG).apply)({'params': params}, whole)
  weights = whole['decoder_loss_weights']
  log_probs = jax.nn.log_softmax(logits)
  targets = whole['decoder_target_tokens']
  of_targets = np.take_along_axis(np.asarray(log_probs), targets[..., None], -1)[..., 0]
  assert together['loss'] == pytest.approx(-(of_targets * weights).sum() / weights.sum(), rel=1e-5)
  correct = (np.asarray(logits).argmax(-1) == targets) * weights
  assert together['token_accuracy'] == pytest.approx(correct.sum() / weights.sum())


def test_a_file_appears_when_it_is_complete_and_a_pipe_is_written_to(tmp_path):
  with files.atomic_file(tmp_path / 'new' / 'a.txt') as file:
    file.write('complete')
    assert not (tmp_path / 'new' / 'a.txt').exists()
  assert (tmp_path / 'new' / 'a.txt').read_text() == 'complete'
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
  with files.atomic_file(pipe) as file:
    file.write('passed on')
  assert os.read(reader, 100) == b'passed on'
  os.close(reader)
  assert pipe.is_fifo()


def test_ids_beyond_the_vocabulary_are_decoded_all_the_same():
  assert isinstance(VOCABULARY.decode([CONFIG.vocab_size - 1, 70, 1, 0]), str)
