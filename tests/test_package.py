"""Tests of the package as a whole: who may import whom, and what it may hold."""

import ast
import configparser
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 't5x_lite'

# Imports go from the top downwards, or stay on a level.
LEVELS = (
  ('annotations', 'choices', 'errors', 'hosts', 'modules', 'remote'),
  ('models', 'losses', 'sharding'),
  (
    'training',
    'evaluation',
    'decoding',
    'checkpoints',
    'data',
    'monitoring',
    'exporting',
    'planning',
  ),
  ('commands', 'configuration', 'tasks', 'gin_configs', 'api', 'serving', 'terminal'),
  ('cli',),
  ('__main__',),
)
WITHOUT_TENSORFLOW = ('models', 'losses', 'sharding', 'decoding', 'training', 'hosts')
DATA_LIBRARIES = ('tensorflow', 'tensorflow_datasets', 'tensorflow_text', 'seqio', 'gin')


def python_files():
  files = [path for folder in ('t5x_lite', 'tasks') for path in (ROOT / folder).rglob('*.py')]
  assert files
  return sorted(files)


def imported_modules(path):
  """Returns the full names of what a file imports, in functions too."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def room(path):
  """Returns the part of t5x_lite that a file belongs to: 'models', 'cli', 'tasks'."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return parts[1] if parts[0] == 't5x_lite' else parts[0]


def name_of(path):
  return str(path.relative_to(ROOT))


def run_python(program):
  return subprocess.run([sys.executable, '-c', program], text=True, capture_output=True)


@pytest.mark.parametrize('path', python_files(), ids=name_of)
def test_imports_point_one_way(path):
  levels = {name: level for level, names in enumerate(LEVELS) for name in names}
  if room(path) == '__init__':
    statements = ast.parse(path.read_text(encoding='utf-8')).body
    assert not [each for each in statements if isinstance(each, (ast.Import, ast.ImportFrom))]
    return
  for name in imported_modules(path):
    if name.startswith('t5x_lite.'):
      imported = name.split('.')[1]
      assert levels[imported] <= levels[room(path)], f'{room(path)} imports {name}'


@pytest.mark.parametrize('path', python_files(), ids=name_of)
def test_each_library_is_imported_where_it_belongs(path):
  roots = {name.split('.')[0] for name in imported_modules(path)}
  where = room(path)
  if where in WITHOUT_TENSORFLOW:
    assert not roots & {*DATA_LIBRARIES, 't5x_lite.data'}
    assert not any(name.startswith('t5x_lite.data') for name in imported_modules(path))
  # What writes a SavedModel is no data, but cannot do without TensorFlow.
  if where not in ('data', 'tasks') and name_of(path) != 't5x_lite/exporting/saved_model.py':
    assert 'tensorflow' not in roots
  if where != 'configuration':
    assert 'gin' not in roots
  if path.name != 'storage.py':
    assert 'orbax' not in roots


@pytest.mark.parametrize('path', python_files(), ids=name_of)
def test_no_deprecated_or_private_module_of_jax_or_flax_is_used(path):
  for name in imported_modules(path):
    for unwanted in ('jax._src', 'jax.experimental.pjit', 'flax.linen.partitioning'):
      assert not name.startswith(unwanted)


def test_the_trainer_imports_on_a_machine_without_tensorflow():
  modules = []
  for path in python_files():
    if room(path) in WITHOUT_TENSORFLOW and path.name != '__init__.py':
      modules.append('.'.join(path.relative_to(ROOT).with_suffix('').parts))
  process = run_python(
    f'import importlib, sys\n'
    f'sys.modules.update(dict.fromkeys({DATA_LIBRARIES}))\n'
    f'for name in {modules}: importlib.import_module(name)\n'
  )
  assert not process.stderr
  assert process.returncode == 0


def test_commands_import_without_anything_heavy():
  modules = [f't5x_lite.commands.{path.stem}' for path in (PACKAGE / 'commands').glob('[a-z]*.py')]
  heavy = (*DATA_LIBRARIES, 'jax', 'flax', 'optax', 'orbax', 'numpy')
  process = run_python(
    f'import importlib, sys\n'
    f'sys.modules.update(dict.fromkeys({heavy}))\n'
    f'for name in {modules}: importlib.import_module(name)\n'
  )
  assert not process.stderr
  assert process.returncode == 0


def test_importing_the_package_costs_nothing():
  process = run_python(
    'import sys; before = set(sys.modules); import t5x_lite; print(set(sys.modules) - before)'
  )
  assert process.stdout == "{'t5x_lite'}\n"


def test_setup_cfg_lists_every_package():
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  folders = {path.parent for path in python_files() if path.name == '__init__.py'}
  packages = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
  packages = {name.replace('tasks', 't5x_lite.tasks') for name in packages} | {
    't5x_lite.gin_configs'
  }
  assert set(setup['options']['packages'].split()) == packages


def text_files():
  endings = ('.py', '.gin', '.sh', '.md', '.cfg', '.toml', '.yaml')
  folders = ('t5x_lite', 'tasks', 'gin_configs', 'launch', 'tests', 'docs')
  files = [path for folder in folders for path in (ROOT / folder).rglob('*')]
  return sorted(path for path in [*files, *ROOT.glob('*')] if path.suffix in endings)


@pytest.mark.parametrize('path', text_files(), ids=name_of)
def test_no_file_is_longer_than_500_lines_or_names_a_folder_of_one_machine(path):
  text = path.read_text(encoding='utf-8')
  assert path.suffix == '.md' or text.count('\n') <= 500
  assert not re.findall(r'(?<![\w.])/(?:home|root|work|Users)/\S*', text)
