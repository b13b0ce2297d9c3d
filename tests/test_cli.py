"""Tests of t5x_lite/cli.py: what every command has in common."""

import os
import subprocess
import sys
import textwrap
import time
import types

import pytest

from t5x_lite import cli, errors

GIN_COMMANDS = ('train', 'eval', 'infer', 'serve', 'export', 'plan', 'bench')


@pytest.fixture(autouse=True)
def process(monkeypatch, tmp_path):
  """Undoes what the command line does to its process; works in an empty folder."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.setattr(os, 'environ', os.environ | {'T5X_LITE_CACHE': str(tmp_path / 'cache')})


@pytest.fixture
def command(monkeypatch):
  """A function that makes `t5x-lite fake`, which runs the given function."""

  def install(run, *, uses_gin=False, default_gin_files=()):
    module = types.ModuleType('t5x_lite.commands.fake')
    module.HELP = 'do nothing'
    module.USES_GIN = uses_gin
    module.DEFAULT_GIN_FILES = default_gin_files
    module.add_arguments = lambda parser: parser.add_argument('--number', type=int, default=0)
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, 'COMMANDS', ('fake',))

  return install


def raising(error):
  def run(args):
    raise error

  return run


def t5x_lite(*arguments, **kwargs):
  return subprocess.run(
    [sys.executable, '-m', 't5x_lite', *arguments], text=True, capture_output=True, **kwargs
  )


def test_the_result_of_a_command_is_the_exit_status(command):
  command(lambda args: args.number)
  assert cli.main(['fake']) == 0
  assert cli.main(['fake', '--number=3']) == 3
  command(lambda args: None)
  assert cli.main(['fake']) == 0


def test_a_mistake_of_the_user_is_one_line_and_status_2(command, capsys):
  command(raising(errors.UserError('BATCH_SIZE=12 is\nodd')))
  assert cli.main(['fake']) == 2
  assert capsys.readouterr() == ('', 't5x-lite: error: BATCH_SIZE=12 is odd\n')


def test_ctrl_c_is_status_130(command, capsys):
  command(raising(KeyboardInterrupt()))
  assert cli.main(['fake']) == 130
  assert capsys.readouterr().err == 't5x-lite: interrupted\n'


def test_a_bug_keeps_its_traceback(command):
  command(raising(ZeroDivisionError('a bug')))
  with pytest.raises(ZeroDivisionError):
    cli.main(['fake'])


def test_a_broken_pipe_that_is_not_our_output_keeps_its_traceback(command):
  command(raising(BrokenPipeError()))
  with pytest.raises(BrokenPipeError):
    cli.main(['fake'])


def test_output_into_a_closed_pipe_ends_quietly():
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
  reader, writer = os.pipe()
  os.close(reader)
  process = subprocess.run(
    [sys.executable, '-m', 't5x_lite', '--help'],
    stdout=writer,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
  )
  os.close(writer)
  assert (process.returncode, process.stderr) == (141, '')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'the following arguments are required: COMMAND (see t5x-lite --help)'),
    (['fakes'], "no command 'fakes'; did you mean fake? (see t5x-lite --help)"),
    (['fake', '--numbers=3'], 'unrecognized arguments: --numbers=3; did you mean --number?'),
    (
      ['fake', '--number=x'],
      "argument --number: invalid int value: 'x' (see t5x-lite fake --help)",
    ),
    (['fake', '--gin.X=1'], '--gin.X=1: this command takes no gin flags'),
    (['fake', '--gin.X'], '--gin.X needs a value: --gin.X=VALUE'),
    (['fake', '--gin.X', '--number=1'], '--gin.X needs a value: --gin.X=VALUE'),
    (['fake', '--module=no_such_module'], "--module=no_such_module: No module named 'no_such_mo"),
    (['fake', '--module=no/such.py'], '--module=no/such.py: there is no such file'),
  ],
)
def test_wrong_arguments_are_answered_in_one_line(command, capsys, arguments, message):
  command(lambda args: None)
  assert cli.main(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith(f't5x-lite: error: {message}')
  assert error.count('\n') == 1


def test_gin_overrides_take_an_equals_sign_or_a_space():
  rest, overrides = cli._take_overrides(
    ['train', '--gin.A=1', '--gin.B', '-2', '--gin.f.x={"a": 1}', '--module', 'm', '--gin.C=d=e']
  )
  assert rest == ['train', '--module', 'm']
  assert overrides == ['A=1', 'B=-2', 'f.x={"a": 1}', 'C=d=e']


def test_gin_files_and_overrides_reach_the_command(command, tmp_path):
  (tmp_path / 'my_module.py').write_text('def double(x):\n  return 2 * x\n')
  (tmp_path / 'default.gin').write_text('import my_module\nX = 1\nmy_module.double.x = %X\n')
  folder = tmp_path / 'folder'
  folder.mkdir()
  (folder / 'mine.gin').write_text('X = 2\n')

  def run(args):
    import my_module

    from t5x_lite import configuration

    return configuration.configured(my_module.double)()

  command(run, uses_gin=True, default_gin_files=('default.gin',))
  assert cli.main(['fake']) == 2
  assert cli.main(['fake', '--gin_search_paths=folder', '--gin_file=mine.gin']) == 4
  assert cli.main(['fake', '--gin_file=folder/mine.gin', '--gin.X=3']) == 6
  assert cli.main(['fake', '--gin.my_module.double.x', '4']) == 8


def test_a_gin_command_without_any_gin_file_says_which_to_give(command, capsys):
  command(lambda args: None, uses_gin=True)
  assert cli.main(['fake']) == 2
  assert '--gin_file=models/t5_1_1_small.gin --gin_file=runs/' in capsys.readouterr().err


def test_modules_of_the_user_are_imported_from_the_working_directory_or_by_path(command, tmp_path):
  command(lambda args: None)
  for name in ('tasks_by_name', 'tasks_by_path'):
    folder = tmp_path / name if name.endswith('path') else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / f'{name}.py').write_text('')
  assert (
    cli.main(['fake', '--module=tasks_by_name', '--module=tasks_by_path/tasks_by_path.py']) == 0
  )
  assert sys.modules.keys() >= {'tasks_by_name', 'tasks_by_path'}


def test_the_user_has_the_last_word_on_the_environment(tmp_path):
  environment = {'JAX_COMPILATION_CACHE_DIR': 'mine', 'TF_CPP_MIN_LOG_LEVEL': '0'}
  cli.set_environment(environment)
  assert environment['JAX_COMPILATION_CACHE_DIR'] == 'mine'
  assert environment['TF_CPP_MIN_LOG_LEVEL'] == '0'


def test_the_cache_is_in_the_users_cache_folder(tmp_path):
  assert str(cli.cache_folder({'T5X_LITE_CACHE': '/a', 'XDG_CACHE_HOME': '/b'})) == '/a'
  assert str(cli.cache_folder({'XDG_CACHE_HOME': '/b'})) == '/b/t5x_lite'
  assert str(cli.cache_folder({})) == os.path.expanduser('~/.cache/t5x_lite')


def test_no_cache_is_used_where_none_can_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  environment = {'T5X_LITE_CACHE': str(tmp_path / 'file')}
  cli.set_environment(environment)
  assert 'JAX_COMPILATION_CACHE_DIR' not in environment


def test_a_second_process_takes_compiled_programs_from_the_cache(tmp_path):
  program = textwrap.dedent("""
    import os
    from t5x_lite import cli
    cli.set_environment(os.environ)
    import jax
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    state = jax.jit(lambda x: x @ x + 1, donate_argnums=0)(jax.numpy.ones((8, 8)))
    print(hits.count('/jax/compilation_cache/cache_hits') > 0, float(state.sum()))
  """)
  environment = os.environ | {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  environment = {k: v for k, v in environment.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  runs = [
    subprocess.run(
      [sys.executable, '-c', program], env=environment, text=True, capture_output=True, check=True
    )
    for _ in range(2)
  ]
  assert [run.stdout for run in runs] == ['False 576.0\n', 'True 576.0\n']
  assert [run.stderr for run in runs] == ['', '']


def test_help_lists_every_command_in_half_a_second_without_heavy_imports():
  heavy = ('jax', 'tensorflow', 'seqio', 'gin', 'numpy', 'flax', 'orbax')
  program = textwrap.dedent(f"""
    import sys
    from t5x_lite import cli
    status = cli.main(sys.argv[1:])
    print('heavy:', sorted(set({heavy}) & set(sys.modules)))
    sys.exit(status)
  """)
  seconds = []
  for _ in range(3):  # The quickest counts; the others may have waited for the processor.
    start = time.perf_counter()
    process = subprocess.run(
      [sys.executable, '-c', program, '--help'], text=True, capture_output=True, check=True
    )
    seconds.append(time.perf_counter() - start)
  assert min(seconds) < 0.5
  assert 'heavy: []' in process.stdout
  for name in cli.COMMANDS:
    assert f'\n    {name} ' in process.stdout


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_has_help(capsys, name):
  assert cli.main([name, '--help']) == 0
  text = capsys.readouterr().out
  assert f'usage: t5x-lite {name}' in text
  assert '--module' in text
  assert ('--gin_file' in text) == (name in GIN_COMMANDS)


def test_help_for_training_names_its_macros(capsys):
  cli.main(['train', '--help'])
  text = capsys.readouterr().out
  for macro in ('MODEL_DIR (required)', 'MIXTURE_OR_TASK_NAME (required)', 'BATCH_SIZE (128)'):
    assert macro in text


def test_the_version_is_printed():
  assert t5x_lite('--version').stdout.startswith('t5x-lite 0.')


def test_mistakes_leave_no_traceback():
  process = t5x_lite('trian')
  assert process.returncode == 2
  assert process.stderr == (
    "t5x-lite: error: no command 'trian'; did you mean train? (see t5x-lite --help)\n"
  )
