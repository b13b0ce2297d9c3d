"""The commands vocab and tasks, as the command line calls them."""

import gzip
import json
import subprocess
import sys

import pytest
import seqio

from t5x_lite import cli

_WORDS = 'the quick brown fox jumps over a lazy dog while seven wizards vex my big sphinx of quartz'
_MODULE = """
import seqio
from t5x_lite.data import sources

_FEATURE = seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)
seqio.TaskRegistry.add(
  'my_task',
  source=sources.RowsDataSource(
    lambda split: {'inputs': ['ab', 'cde', 'f'], 'targets': ['x', 'yz', '']}, ['train', 'dev']
  ),
  preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
  output_features={'inputs': _FEATURE, 'targets': _FEATURE},
)
seqio.MixtureRegistry.add('my_mixture', [('my_task', 1.0)])
"""


def _run(*arguments):
  assert cli.main(list(arguments)) == 0


@pytest.fixture
def my_module(tmp_path, monkeypatch):
  (tmp_path / 'my_tasks_for_test.py').write_text(_MODULE)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
  yield 'my_tasks_for_test'
  seqio.TaskRegistry.remove('my_task')
  seqio.MixtureRegistry.remove('my_mixture')
  del sys.modules['my_tasks_for_test']


def test_tasks_lists_ours_and_those_of_a_module_with_splits_and_metrics(my_module, capsys):
  _run('tasks', f'--module={my_module}')
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert lines[0] == ['TASK', 'SPLITS', 'DATA', 'METRICS']
  assert ['my_task', 'train,dev', 'RowsDataSource', '-'] in lines
  assert ['my_mixture', '1:', 'my_task'] in lines
  metrics = 'accuracy,invalid_predictions'
  assert ['quickstart_sentiment', 'train,validation', 'RowsDataSource', metrics] in lines
  assert ['glue_rte_v002', 'train,validation,test', 'glue/rte:2.0.0', metrics] in lines


def test_show_prints_text_ids_lengths_and_padding(my_module, capsys):
  _run(
    'tasks',
    *('show', 'my_task', '--split=dev', '--examples=2', '--lengths=inputs=5,targets=4'),
    f'--module={my_module}',
  )
  out = capsys.readouterr().out
  assert 'my_task, split dev: lengths inputs 5, targets 4' in out
  assert 'inputs: ByteVocabulary of 359 ids' in out
  assert 'example 1 inputs (4 ids): cde </s>\nexample 1 inputs ids: 102 103 104 1\n' in out
  assert 'example 2' not in out
  assert 'padding of inputs: 40.0% (of 3 rows)' in out
  assert 'padding of targets: 50.0% (of 3 rows)' in out


def test_show_packs_examples_into_rows(my_module, capsys):
  _run(
    'tasks',
    *('show', 'my_mixture', '--split=dev', '--lengths=inputs=16,targets=16', '--pack'),
    f'--module={my_module}',
  )
  out = capsys.readouterr().out
  assert 'example 0 inputs (9 ids): ab </s> cde </s> f </s>' in out
  assert 'example 1' not in out


@pytest.mark.parametrize(
  'arguments, complaint',
  [
    (['show', 'quickstart_sentimnt'], 'did you mean quickstart_sentiment'),
    (['show'], 'which task?'),
    (['--module=no_such_module'], '--module=no_such_module'),
    (['show', 'quickstart_sentiment', '--split=test'], "no split 'test'"),
    (['show', 'quickstart_sentiment', '--lengths=512'], '--lengths'),
  ],
)
def test_mistakes_are_named(arguments, complaint, capsys):
  assert cli.main(['tasks', *arguments]) == 2
  assert complaint in capsys.readouterr().err


def test_vocab_trains_from_files_of_several_kinds(tmp_path, capsys):
  words = _WORDS.split()
  texts = [' '.join(words[i:] + words[:i]) for i in range(18)]
  (tmp_path / 'a.txt').write_text('\n'.join(texts))
  (tmp_path / 'b.jsonl').write_text(''.join(json.dumps({'body': t}) + '\n' for t in texts))
  (tmp_path / 'c.tsv.gz').write_bytes(gzip.compress(('n\tbody\n1\t' + texts[0]).encode()))
  output = tmp_path / 'out' / 'v.model'
  _run(
    'vocab',
    *(f'--output={output}', '--size=56', '--sentinels=10', '--field=body'),
    *('--input', str(tmp_path / '*.txt'), str(tmp_path / '[bc].*')),
  )
  assert f"SentencePieceVocabulary('{output}', extra_ids=10)" in capsys.readouterr().out
  vocabulary = seqio.SentencePieceVocabulary(str(output), extra_ids=10)
  assert vocabulary.vocab_size == 56
  assert vocabulary.decode(vocabulary.encode('lazy quartz')) == 'lazy quartz'


def test_vocab_trains_from_a_task(my_module, tmp_path):
  output = tmp_path / 'v.model'
  _run(
    'vocab',
    *(f'--output={output}', '--size=18', '--sentinels=5', '--task=my_task', '--split=dev'),
    f'--module={my_module}',
  )
  assert seqio.SentencePieceVocabulary(str(output), extra_ids=5).vocab_size == 18


def test_vocab_names_the_bad_line_of_a_file(tmp_path, capsys):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "a"}\n{"txt": "b"}\n')
  assert cli.main(['vocab', f'--output={tmp_path}/v.model', '--input', str(path)]) == 2
  assert f"{path}, line 2: no field 'text'; the line has 'txt'" in capsys.readouterr().err


def test_the_commands_import_neither_jax_nor_tensorflow_before_they_run():
  program = (
    'import sys; from t5x_lite.commands import tasks, vocab; '
    "print({'jax', 'tensorflow', 'seqio', 'gin', 'numpy'} & set(sys.modules))"
  )
  result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert result.stdout == 'set()\n'
