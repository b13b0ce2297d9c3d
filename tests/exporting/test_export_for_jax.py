"""`t5x-lite export` for jax: what a Python with nothing but jax makes of the folder."""

import hashlib
import json

import bare_python
import expected_texts
import jax.export
import numpy as np
import pytest
import random_runs
import tiny

from t5x_lite import cli, sharding
from t5x_lite.data import batches, vocabulary
from t5x_lite.decoding import options
from t5x_lite.evaluation import inference, runs

LINES = [*random_runs.LINES, 'a <extra_id_0> fish', 'two birds']
LENGTHS = {'inputs': 20, 'targets': 4}
DECODINGS = {
  'beams': {'num_beams': 4, 'num_answers': 2},
  'groups': {'num_beams': 4, 'num_beam_groups': 2, 'diversity_penalty': 0.5, 'num_answers': 4},
  'samples': {'temperature': 0.9, 'top_k': 20, 'top_p': 0.9, 'num_answers': 3, 'seed': 7},
  'allowed': {'allowed': ['red', 'fish', 'a bird']},
  'constraints': {
    'prefix': 'a',
    'repetition_penalty': 1.3,
    'no_repeat_ngram_size': 2,
    'min_new_tokens': 2,
    'banned': ['fish', [5, 6]],
    'forced': {-1: 1},
  },
}
# Asks with several numbers of rows, and tells what else was imported for it.
ASK = """
import loader

model = loader.Model()
results = []
for n in arguments['sizes']:
  inputs, targets = arguments['inputs'][:n], arguments['targets'][:n]
  tokens, scores = model.predict(inputs)
  assert tokens.dtype == 'int32' and scores.dtype == 'float32'
  results.append([tokens.tolist(), scores.tolist(), model.score(inputs, targets).tolist()])
others = {'sentencepiece', 'tensorflow', 'flax', 't5x_lite'} & set(sys.modules)
print(json.dumps({'results': results, 'others': sorted(others)}))
"""
ASK_IN_TEXTS = """
import loader, texts

model, vocabulary = loader.Model(), texts.Vocabulary()
inputs = vocabulary.encode(arguments['inputs'])
targets = vocabulary.encode(arguments['targets'], 'targets')
tokens, scores = model.predict(inputs)
messages = []
for feature in ('inputs', 'targets'):
  try:
    vocabulary.encode(['a', 'fish ' * 50], feature)
  except ValueError as error:
    messages.append(str(error))
print(json.dumps({
  'messages': messages,
  'predictions': [vocabulary.decode(row) for row in tokens],
  'scores': scores.tolist(),
  'of_targets': model.score(inputs, targets).tolist(),
}))
"""


def flags(decoding):
  names = {'seed': 'DECODING_SEED'}
  return [f'--gin.{names.get(name, name.upper())}={value}' for name, value in decoding.items()]


def check(python, exported, run, decoding=None, sizes=(5,), rtol=1e-5, **kept):
  """Compares ids and scores of the folder with those of the run, row by row."""
  opened = runs.open_run(run, **kept)
  words = opened.load_vocabulary()
  decoder = options.DecodingConfig(**decoding or {}).resolve(words, LENGTHS['targets'])
  ids = [words.encode(line)[:20] for line in LINES]
  rows = np.zeros((2, 16, 20), np.int32)  # As many as 8 devices can divide.
  for number, each in enumerate(ids):
    rows[0, number, : len(each)] = each
    rows[1, number, : len(each[:4])] = each[:4]
  inputs, targets = rows[0], rows[1, :, :4]
  model = opened.model(sharding.data_parallel())
  params = opened.restore(20, model)
  prompts = inference.Prompts(inputs, np.arange(16, dtype=np.int32))
  [decoded] = model.predict(params, [prompts], decoder)
  batch = batches.of_tokens(inputs, targets, opened.config.has_encoder)
  [of_targets] = model.score(params, [batch])

  answer = bare_python.run(
    python,
    ASK,
    exported,
    absent=['tensorflow', 'sentencepiece', 'flatbuffers'],
    inputs=ids,
    targets=[each[:4] for each in ids],
    sizes=sizes,
  )
  assert answer['others'] == []
  assert len(np.unique(decoded.tokens, axis=0)) > 2
  for n, (tokens, scores, scores_of_targets) in zip(sizes, answer['results'], strict=True):
    assert tokens == decoded.tokens[:n].tolist()
    scores = np.reshape(scores, decoded.scores[:n].shape)
    np.testing.assert_allclose(scores, decoded.scores[:n], rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(scores_of_targets, of_targets[:n], rtol=rtol, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('decoding', DECODINGS.values(), ids=DECODINGS.keys())
def test_jax_alone_answers_as_the_run_does(word_run, export, python_with_jax, decoding):
  exported = export(word_run, *flags(decoding))
  check(python_with_jax, exported, word_run, decoding)


@pytest.mark.slow
def test_one_program_takes_any_number_of_rows(word_run, export, python_with_jax):
  check(python_with_jax, export(word_run), word_run, sizes=(0, 1, 3, 12))


@pytest.mark.slow
def test_batches_of_given_sizes_answer_any_number_of_rows(word_run, export, python_with_jax):
  decoding = DECODINGS['samples']
  exported = export(word_run, *flags(decoding), '--gin.BATCH_SIZES=(4, 2)')
  names = {path.name for path in exported.glob('*.jax_export')}
  assert names == {f'{name}-{size}.jax_export' for name in ('predict', 'score') for size in (2, 4)}
  check(python_with_jax, exported, word_run, decoding, sizes=(1, 2, 3, 7, 12))


@pytest.mark.slow
def test_bfloat16_answers_alike_from_half_the_bytes(word_run, export, python_with_jax):
  exported = export(word_run, '--gin.DTYPE=bfloat16')
  arrays = np.load(exported / 'weights.npz')
  sizes = {name: array.dtype.itemsize for name, array in arrays.items()}
  assert {name for name, size in sizes.items() if size != 2} == {
    'encoder/relpos_bias/rel_embedding', 'decoder/relpos_bias/rel_embedding'
  }  # fmt: skip
  check(python_with_jax, exported, word_run, dtype='bfloat16', rtol=1e-3)


@pytest.mark.slow
def test_int8_weights_answer_alike_from_a_quarter_of_the_bytes(word_run, export, python_with_jax):
  exported = export(word_run, '--gin.WEIGHTS=int8')
  arrays = np.load(exported / 'weights.npz')
  assert arrays['decoder/layers_0/mlp/wo/kernel/values'].dtype == np.int8
  assert not any(name.endswith('/kernel') for name in arrays)
  assert json.loads((exported / 'manifest.json').read_text())['weights'] == 'int8'
  check(python_with_jax, exported, word_run, weights='int8', rtol=1e-3)


@pytest.mark.slow
def test_a_language_model_on_bytes_goes_on_with_its_inputs(byte_run, export, python_with_jax):
  exported = export(byte_run, f'--gin.TASK_FEATURE_LENGTHS={LENGTHS}', '--gin.NUM_BEAMS=2')
  check(python_with_jax, exported, byte_run, {'num_beams': 2})
  messages = check_texts(python_with_jax, exported, byte_run, LINES, {'num_beams': 2})
  assert messages == [
    'inputs of 250 tokens, but 20 are the most', 'targets of 251 tokens, but 4 are the most'
  ]  # fmt: skip


def check_texts(python, exported, run, lines, decoding):
  """Compares texts and scores of the folder with those of `t5x_lite.load`."""
  targets = (['a', 'red', 'fi'] * len(lines))[: len(lines)]
  answer = bare_python.run(python, ASK_IN_TEXTS, exported, inputs=lines, targets=targets)
  texts, scores, of_targets = expected_texts.of(run, LENGTHS, lines, targets, decoding)
  assert answer['predictions'] == texts
  np.testing.assert_allclose(answer['scores'], scores, rtol=1e-5)
  np.testing.assert_allclose(answer['of_targets'], of_targets, rtol=1e-5)
  return answer['messages']


@pytest.mark.slow
def test_texts_are_answered_where_there_is_sentencepiece(
  word_run, export, python_with_jax_and_sentencepiece
):
  decoding = {'num_beams': 2, 'num_answers': 2}
  exported = export(word_run, *flags(decoding), '--gin.CUT_LONG_INPUTS=True')
  lines = [*LINES, 'caf\u00e9 \U0001f41f ' * 8]  # Unknown pieces, and more than are read.
  python = python_with_jax_and_sentencepiece
  [message] = check_texts(python, exported, word_run, lines, decoding)
  assert message.startswith('targets of')
  words = vocabulary.open_sentencepiece(exported / 'sentencepiece.model', num_sentinels=0)
  kept = vocabulary.load(word_run / 'vocabulary')
  assert vocabulary.fingerprint(words) == vocabulary.fingerprint(kept)


def test_the_manifest_says_what_is_in_the_folder(word_run, export):
  exported = export(word_run, '--gin.CHECKPOINT=0', '--gin.MAX_NEW_TOKENS=3')
  manifest = json.loads((exported / 'manifest.json').read_text())
  files = {str(p.relative_to(exported)): p for p in exported.rglob('*') if p.is_file()}
  assert files.keys() == manifest['files'].keys() | {'manifest.json'}
  for name, file in manifest['files'].items():
    content = files[name].read_bytes()
    assert file == {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
  for name in ('predict', 'score'):
    program = jax.export.deserialize(bytearray((exported / f'{name}.jax_export').read_bytes()))
    assert program.platforms == ('cpu', 'cuda', 'tpu') == tuple(manifest['platforms'])
  assert manifest['step'] == 0 and manifest['batch_sizes'] is None
  assert manifest['lengths'] == LENGTHS
  assert manifest['decoding']['max_new_tokens'] == 3
  assert manifest['model']['emb_dim'] == tiny.SHAPE['emb_dim']
  assert manifest['versions']['jax'] == jax.__version__


def export_fails(run, folder, *arguments):
  return cli.main(['export', f'--gin.MODEL_DIR={run}', f'--gin.OUTPUT={folder}', *arguments]) == 2


@pytest.mark.parametrize(
  'argument, message',
  [
    ('FORMAT=onnx', "FORMAT='onnx' is neither 'jax' nor 'tensorflow'"),
    ("PLATFORMS=('cpu', 'gpu')", 'must be some of cpu, cuda, rocm, tpu'),
    ('PLATFORMS=()', 'must be some of cpu'),
    ('BATCH_SIZES=(4, 0)', 'must be numbers of rows from 1 on'),
    ('BATCH_SIZES=()', 'must be numbers of rows from 1 on'),
    ('BATCH_SIZES=(1.5,)', 'such as (1, 8, 32)'),
    ('CHECKPOINT=all', "CHECKPOINT='all' are several"),
    ('NUM_ANSWERS=2', 'num_answers=2 needs num_beams=2 or more'),
  ],
)
def test_what_cannot_be_exported_is_told_and_leaves_nothing(
  word_run, tmp_path, capsys, argument, message
):
  assert export_fails(word_run, tmp_path / 'exported', f'--gin.{argument}')
  captured = capsys.readouterr()
  assert message in captured.err and captured.err.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_as_it_is(word_run, tmp_path, capsys):
  (tmp_path / 'exported').mkdir()
  (tmp_path / 'exported' / 'mine').write_text('mine')
  assert export_fails(word_run, tmp_path / 'exported')
  assert 'is there already' in capsys.readouterr().err
  assert [path.name for path in tmp_path.rglob('*')] == ['exported', 'mine']


TRANSFORM = """
import jax.numpy as jnp

from t5x_lite.decoding import logits


def only_seven(values, context):
  is_seven = jnp.stack([jnp.arange(values.shape[-1]) == 7] * {length})
  return jnp.where(is_seven[:, None], values, logits.BANNED)
"""


@pytest.mark.slow
@pytest.mark.parametrize('length, is_polymorphic', [('1', True), ('len(values)', False)])
def test_transforms_of_ones_own_are_exported(
  word_run, export, tmp_path, python_with_jax, capsys, length, is_polymorphic
):
  name = f'only_seven_{is_polymorphic}'
  module = tmp_path / f'{name}.py'
  module.write_text(TRANSFORM.format(length=length))
  arguments = [f'--module={module}', f'--gin.LOGITS_TRANSFORMS=[@{name}.only_seven]']
  if not is_polymorphic:
    assert export_fails(word_run, tmp_path / 'exported', *arguments)
    assert 'give the sizes, such as --gin.BATCH_SIZES=(1,8,32)' in capsys.readouterr().err
    arguments.append('--gin.BATCH_SIZES=(2,)')
  exported = export(word_run, *arguments)
  asked = {'inputs': [[5, 1], [6, 1]], 'targets': [[7], [7]], 'sizes': [2]}
  [[tokens, *_]] = bare_python.run(python_with_jax, ASK, exported, **asked)['results']
  assert tokens == [[[7] * 4]] * 2
  manifest = json.loads((exported / 'manifest.json').read_text())
  assert manifest['decoding']['transforms'] == ['only_seven']
