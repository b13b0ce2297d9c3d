"""`t5x-lite COMMAND`: flags and gin, then one call of the command's `run`.

Nothing that takes time is imported before the arguments are known to be right: not jax, not
TensorFlow, not gin. A module of `t5x_lite.commands` has

  HELP: one line for the list of commands.
  add_arguments(parser): its flags.
  run(args): does it; what it returns, if anything, is the exit status. `args.started` is the time
    at which the command began, before all imports, in seconds since 1970.

and, where gin configures it,

  USES_GIN = True
  DEFAULT_GIN_FILES: names of gin files that are parsed before the user's.
"""

import argparse
import importlib
import importlib.util
import os
import pathlib
import re
import select
import sys
import time
import traceback

import t5x_lite
from t5x_lite import choices, errors, gin_configs, modules
from t5x_lite.hosts import job

COMMANDS = (
  'train',
  'eval',
  'infer',
  'serve',
  'export',
  'convert',
  'plan',
  'tasks',
  'vocab',
  'bench',
)
_READ_TASKS = ('train', 'eval', 'infer', 'tasks', 'vocab', 'bench')
_CHOOSE_VOCABULARY = ('train', 'tasks', 'bench')
_RUN_ON_SEVERAL_HOSTS = ('train', 'eval', 'infer', 'bench')

_GIN_USAGE = """\
gin:
  --gin.NAME=VALUE sets a macro, such as BATCH_SIZE, or a parameter of a function
  or class, such as T5Config.dropout_rate. Strings need no quotes of their own:

    --gin.MODEL_DIR=/tmp/run --gin.BATCH_SIZE=64
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 128, 'targets': 32}"
    --gin.OPTIMIZER=@optax.lion --gin.optax.lion.weight_decay=0.1
"""
# A macro that a gin file sets, and says something about.
_MACRO = re.compile(r'^([A-Z][A-Z0-9_]*) = (.*?)  # (.*)$', re.MULTILINE)
_INCLUDE = re.compile(r"^include '(.*)'$", re.MULTILINE)


def main(argv=None):
  """Runs one command and returns the exit status.

  It is 0, 2 for a user's mistake, 75 where a host of the job is missing, 130 for Ctrl-C.
  """
  try:
    try:
      status = _run(sys.argv[1:] if argv is None else list(argv))
    except SystemExit as stop:  # --help and --version.
      status = stop.code
    sys.stdout.flush()  # A closed pipe shows up here, and not while Python exits.
    return status or 0
  except (errors.UserError, errors.HostError) as error:
    message = ' '.join(str(error).split('\n'))
    print('t5x-lite: error:', message, file=sys.stderr)
    # Locks that it came out of are let go of now, where the process is not about to end.
    traceback.clear_frames(error.__traceback__)
    return job.abandon(error.status, message)
  except KeyboardInterrupt:
    print('t5x-lite: interrupted', file=sys.stderr)
    return job.abandon(130, 'interrupted')
  except BrokenPipeError:
    return job.abandon(_stop_writing(), 'nobody reads its output')


def _run(argv):
  started = time.time()
  args, overrides = _parse_arguments(argv)
  args.started = started
  set_environment(os.environ)
  if args.command not in _RUN_ON_SEVERAL_HOSTS:
    _configure(args, overrides)
    return args.run(args)
  with job.of(args, saves_on_sigterm=args.command == 'train'):
    _configure(args, overrides)
    return args.run(args)


def _configure(args, overrides):
  names = ('local_data', 'vocabulary', 'cache_dir')
  chosen = {name: getattr(args, name, None) for name in names}
  choices.begin(**{name: value for name, value in chosen.items() if value})
  modules.import_all(args.module)
  if args.uses_gin:
    from t5x_lite import configuration  # Imports gin, which `--help` does not need.

    gin_files = (*args.default_gin_files, *args.gin_file)
    if not gin_files:
      raise errors.UserError(
        'this command is configured by gin files, such as --gin_file=models/t5_1_1_small.gin '
        '--gin_file=runs/pretrain.gin'
      )
    configuration.parse(gin_files, overrides, args.gin_search_paths)


# Arguments.


def _parse_arguments(argv):
  """Returns the parsed flags and the gin overrides, 'NAME=VALUE' each."""
  parser = _Parser(
    prog='t5x-lite',
    description='Train, fine-tune, evaluate and query T5 models.',
    epilog='`t5x-lite COMMAND --help` lists the flags of a command.',
    allow_abbrev=False,
  )
  parser.add_argument('--version', action='version', version=f't5x-lite {t5x_lite.__version__}')
  subparsers = parser.add_subparsers(
    title='commands', metavar='COMMAND', required=True, parser_class=_Parser
  )
  for name in argv[:1] if set(argv[:1]) & set(COMMANDS) else COMMANDS:
    _add_command(subparsers, name, importlib.import_module(f't5x_lite.commands.{name}'))
  argv, overrides = _take_overrides(argv)
  args = parser.parse_args(argv)
  if overrides and not args.uses_gin:
    raise errors.UserError(f'--gin.{overrides[0]}: this command takes no gin flags')
  return args, overrides


def _add_command(subparsers, name, command):
  uses_gin = getattr(command, 'USES_GIN', False)
  default_gin_files = getattr(command, 'DEFAULT_GIN_FILES', ())
  parser = subparsers.add_parser(
    name,
    help=command.HELP,
    description=command.HELP,
    epilog=_GIN_USAGE + _macro_help(name) if uses_gin else None,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  command.add_arguments(parser)
  parser.add_argument(
    '--module',
    action='append',
    default=[],
    metavar='NAME',
    help='Python module (my.tasks) or file (my_tasks.py) to import first, for the tasks that it '
    'registers; the working directory is searched too; may be repeated',
  )
  if name in _READ_TASKS:
    _add_task_arguments(parser, name)
  if name in _RUN_ON_SEVERAL_HOSTS:
    job.add_arguments(parser)
  parser.set_defaults(
    command=name,
    run=command.run,
    uses_gin=uses_gin,
    default_gin_files=default_gin_files,
  )
  if uses_gin:
    _add_gin_arguments(parser, default_gin_files)


def _add_task_arguments(parser, command):
  group = parser.add_argument_group('data of tasks')
  group.add_argument(
    '--local_data',
    action='append',
    default=[],
    metavar='PATH',
    help='folder of files to read in place of TensorFlow Datasets (PATH/glue/cola/train.tsv), or '
    'DATASET=FOLDER, DATASET/SPLIT=FILE; may be repeated (default: $T5X_LITE_LOCAL_DATA)',
  )
  if command != 'vocab':
    group.add_argument(
      '--cache_dir',
      metavar='DIR',
      help='folder of cached tasks, which `t5x-lite tasks cache` writes and USE_CACHED reads '
      '(default: $T5X_LITE_TASK_CACHE, or ~/.cache/t5x_lite/tasks)',
    )
  if command in _CHOOSE_VOCABULARY:
    group.add_argument(
      '--vocabulary',
      metavar='PATH',
      help="of the T5 benchmark's tasks: SentencePiece file, folder of a run, or 'bytes' (default: "
      "that of the checkpoint from which a run goes on, else T5's)",
    )


def _add_gin_arguments(parser, default_gin_files):
  group = parser.add_argument_group('gin flags')
  after = f', parsed after {" and ".join(default_gin_files)}' if default_gin_files else ''
  group.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='gin file, searched for in the working directory, --gin_search_paths and among the '
    f'installed ones (models/t5_1_1_small.gin){after}; may be repeated, later ones win',
  )
  group.add_argument(
    '--gin_search_paths',
    type=lambda text: [path for path in text.split(',') if path],
    default=[],
    metavar='DIR,...',
    help='folders to search for gin files',
  )
  group.add_argument(
    '--gin.NAME',
    dest='gin_override',  # Only for the help; `_take_overrides` takes them.
    metavar='VALUE',
    help='set a gin macro or parameter; wins over the files',
  )


def _macro_help(command):
  """Lists the macros of runs/COMMAND.gin, and of what it includes, with what the files say of them."""
  lines = []
  files = [f'runs/{command}.gin']
  for file in files:
    path = pathlib.Path(gin_configs.__file__).parent / file
    if not path.is_file():
      continue
    text = path.read_text(encoding='utf-8')
    files += _INCLUDE.findall(text)
    lines += ['', f'macros ({file}):']
    for name, value, told in _MACRO.findall(text):
      value = 'required' if value == '%gin.REQUIRED' else value
      lines += [f'  {name} ({value})', f'      {told}']
  return '\n'.join(lines)


def _take_overrides(argv):
  """Splits `--gin.NAME=VALUE` and `--gin.NAME VALUE` from the other arguments."""
  rest, overrides = [], []
  arguments = iter(argv)
  for argument in arguments:
    if not argument.startswith('--gin.'):
      rest.append(argument)
      continue
    override = argument.removeprefix('--gin.')
    if '=' not in override:
      value = next(arguments, None)
      if value is None or value.startswith('--'):
        raise errors.UserError(f'{argument} needs a value: {argument}=VALUE')
      override = f'{override}={value}'
    overrides.append(override)
  return rest, overrides


class _Parser(argparse.ArgumentParser):
  """Reports what is wrong in one line, with the flag or command that may have been meant."""

  def error(self, message):
    flag = re.search(r'unrecognized arguments: (-[^\s=]*)', message)
    choice = re.search(r"invalid choice: '([^']*)'", message)
    near = ''
    if flag:
      near = errors.did_you_mean(flag[1], self._all_flags())
    elif choice:
      near = errors.did_you_mean(choice[1], COMMANDS)
      message = re.sub(r'^argument COMMAND: invalid choice: (\S+) .*', r'no command \1', message)
    raise errors.UserError(f'{message}{near} (see {self.prog} --help)')

  def _all_flags(self):
    """Returns the flags of this parser and of all its commands."""
    flags = list(self._option_string_actions)
    for action in self._actions:
      if isinstance(action, argparse._SubParsersAction):
        for parser in action.choices.values():
          flags += parser._all_flags()
    return flags


# The process.


def set_environment(environment):
  """Sets what jax and TensorFlow read when they are imported, where the user has not.

  The compilation cache is set here, and not through `jax.config`, so that a command which never
  imports jax pays nothing for it.
  """
  environment.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  environment.setdefault('GRPC_VERBOSITY', 'ERROR')
  # etils asks this once, and takes TensorFlow where it is installed, which has no s3://.
  if any(map(importlib.util.find_spec, ('gcsfs', 's3fs'))):
    environment.setdefault('EPATH_USE_TF', 'false')
  if 'JAX_COMPILATION_CACHE_DIR' not in environment:
    folder = cache_folder(environment) / 'jax'
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError:
      return  # No cache; jax would warn at every compilation.
    environment['JAX_COMPILATION_CACHE_DIR'] = str(folder)
  environment.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')


def cache_folder(environment=os.environ) -> pathlib.Path:
  """Returns the folder for what can be made again: $T5X_LITE_CACHE, or one in the user's cache."""
  if environment.get('T5X_LITE_CACHE'):
    return pathlib.Path(environment['T5X_LITE_CACHE']).expanduser()
  user_cache = environment.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(user_cache).expanduser() / 't5x_lite'


def _stop_writing():
  """Ends quietly when the reader of our output has gone, as in `t5x-lite tasks | head`."""
  output = sys.__stdout__.fileno()
  poll = select.poll()
  poll.register(output, 0)  # For errors, which are always told.
  if not poll.poll(0):
    raise  # Some other pipe broke, and that is no matter for silence.
  # What is still buffered goes nowhere, so that Python's last flush does not fail again.
  os.dup2(os.open(os.devnull, os.O_WRONLY), output)
  return 141  # 128 + SIGPIPE, as the shell would report it.
