"""`t5x-lite tasks`: lists the tasks there are, shows the examples of one, or caches it."""

import shlex

from t5x_lite import errors

HELP = 'list tasks and mixtures, show examples of one, or cache it'

_LENGTHS = {'inputs': 512, 'targets': 114}
# Of a mixture, in the list.
_TASKS_SHOWN = 3
# Over how many rows the padding share is measured.
_ROWS_FOR_PADDING = 256


def add_arguments(parser):
  """Adds the arguments of this command."""
  parser.add_argument(
    'action',
    nargs='?',
    choices=('list', 'show', 'cache'),
    default='list',
    help='list (the default), show examples of NAME, or preprocess NAME once, for USE_CACHED=True',
  )
  parser.add_argument('name', nargs='?', metavar='NAME', help='task or mixture to show or cache')
  parser.add_argument('--split', default='train', help='split to show (default: %(default)s)')
  parser.add_argument(
    '--examples', type=int, default=3, metavar='N', help='examples to show (default: %(default)s)'
  )
  parser.add_argument(
    '--lengths',
    type=parse_lengths,
    metavar='inputs=512,targets=114',
    help='feature lengths, as TASK_FEATURE_LENGTHS (default: inputs=512,targets=114)',
  )
  parser.add_argument('--pack', action='store_true', help='pack short examples into shared rows')
  parser.add_argument('--seed', type=int, default=0, help='of shuffling and random preprocessing')
  parser.add_argument('--overwrite', action='store_true', help='cache again what is cached')
  parser.add_argument(
    '--pipeline_options',
    type=shlex.split,
    default=[],
    metavar="'--runner=RUNNER ...'",
    help="Apache Beam's options, for caching on many machines (default: on this one)",
  )


def run(args):
  """Prints the list or the examples, or caches."""
  import t5x_lite.tasks  # noqa: F401 - registers them

  if args.action == 'list':
    _list()
  elif args.name is None:
    raise errors.UserError(
      f'which task? t5x-lite tasks {args.action} NAME; `t5x-lite tasks` lists them'
    )
  elif args.action == 'show':
    _show(args)
  else:
    _cache(args)


def parse_lengths(text: str) -> dict[str, int]:
  """Reads 'inputs=512,targets=114'; a ValueError makes argparse name the flag."""
  lengths = {}
  for item in text.split(','):
    name, _, length = item.partition('=')
    lengths[name.strip()] = int(length)
  return lengths


def _list():
  import seqio

  from t5x_lite.data import local_data

  rows = [('TASK', 'SPLITS', 'DATA', 'METRICS')]
  for name in sorted(seqio.TaskRegistry.names()):
    task = seqio.TaskRegistry.get(name)
    metrics = dict.fromkeys(map(_metric_name, task.metric_fns))
    data = getattr(task.source, 'tfds_name', None) or type(task.source).__name__
    if isinstance(task.source, local_data.LocalOrTfdsDataSource) and _splits(task, local=True):
      data = 'local files'
    rows.append((name, ','.join(_splits(task)), data, ','.join(metrics) or '-'))
  _print_columns(rows)
  rows = [('MIXTURE', 'TASKS')]
  for name in sorted(seqio.MixtureRegistry.names()):
    tasks = [task.name for task in seqio.MixtureRegistry.get(name).tasks]
    shown = tasks if len(tasks) <= _TASKS_SHOWN else [*tasks[:_TASKS_SHOWN], '...']
    rows.append((name, f'{len(tasks)}: {", ".join(shown)}'))
  print()
  _print_columns(rows)


def _metric_name(function):
  function = getattr(function, 'func', function)  # Of functools.partial.
  return getattr(function, '__name__', str(function))


def _print_columns(rows):
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print('  '.join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def _splits(task, *, local=False):
  """Names of a task's splits, train first; or, if `local`, of those that have local files."""
  try:
    splits = task.source.files() if local else task.splits
  except Exception:
    # A data set that is not there, or not as it should be, cannot tell; list the task still.
    return [] if local else ['?']
  order = ('train', 'validation', 'test')
  return sorted(splits, key=lambda s: (order.index(s) if s in order else len(order), s))


def _show(args):
  import itertools

  import numpy as np

  from t5x_lite.data import batches

  features = batches.output_features(args.name)
  lengths = args.lengths or {name: _LENGTHS[name] for name in _LENGTHS if name in features}
  config = batches.DatasetConfig(
    mixture_or_task_name=args.name,
    task_feature_lengths=lengths,
    split=args.split,
    batch_size=1,
    shuffle=args.split == 'train',
    seed=args.seed,
    pack=args.pack,
  )
  length_of = ', '.join(f'{name} {lengths.get(name)}' for name in features)
  print(f'{args.name}, split {args.split}: lengths {length_of}{", packed" if args.pack else ""}')
  for name, feature in features.items():
    vocabulary = feature.vocabulary
    print(f'{name}: {type(vocabulary).__name__} of {vocabulary.vocab_size} ids')

  read = batches.train_batches if config.shuffle else batches.eval_batches
  has_inputs = 'inputs' in features
  rows = read(config, has_encoder=has_inputs)
  rows = list(itertools.islice(rows, max(args.examples, _ROWS_FOR_PADDING)))
  columns = {'inputs': 'encoder_input_tokens'} if has_inputs else {}
  columns['targets'] = 'decoder_target_tokens'
  for i, row in enumerate(rows[: args.examples]):
    print()
    for name, column in columns.items():
      tokens = row[column][0]
      ids = tokens[: np.max(np.nonzero(tokens)[0], initial=-1) + 1].tolist()
      print(f'example {i} {name} ({len(ids)} ids): {_text(features[name].vocabulary, ids)}')
      print(f'example {i} {name} ids: {" ".join(map(str, ids))}')
  print()
  for name, column in columns.items():
    share = np.mean([row[column] == 0 for row in rows]) if rows else float('nan')
    print(f'padding of {name}: {share:.1%} (of {len(rows)} rows)')


def _text(vocabulary, ids):
  """Text of ids, past the end of each packed example too."""
  pieces, begin = [], 0
  for i, token in enumerate(ids):
    if token == vocabulary.eos_id or i == len(ids) - 1:
      ended = ' </s>' if token == vocabulary.eos_id else ''
      pieces.append(vocabulary.decode(ids[begin : i + 1]) + ended)
      begin = i + 1
  return ' '.join(pieces)


def _cache(args):
  import seqio

  from t5x_lite import modules
  from t5x_lite.data import batches, cached_tasks

  mixture_or_task = batches.get_mixture_or_task(args.name)
  tasks = sorted(seqio.get_subtasks(mixture_or_task), key=lambda task: task.name)
  if not any(task.supports_caching for task in tasks):
    raise errors.UserError(cached_tasks.cannot_be_cached(mixture_or_task))
  try:
    from t5x_lite.data import caching
  except ImportError as error:
    raise errors.UserError(
      f"caching needs Apache Beam and array_record ({error}): pip install 't5x_lite[cache]'"
    ) from error
  for task in tasks:
    folder = caching.task_folder(task)
    if not task.supports_caching:
      print(f'{task.name}: not cached, for it has no seqio.CacheDatasetPlaceholder()')
    elif caching.is_complete(task) and not args.overwrite:
      print(f'{task.name}: is cached in {folder}; --overwrite caches it again')
    else:
      numbers = caching.cache_task(
        task,
        batches.splits_of(task),
        options=args.pipeline_options,
        task_modules=('t5x_lite.tasks', *modules.absolute(args.module)),
      )
      counts = ', '.join(f'{number:,} of {split}' for split, number in numbers.items())
      print(f'{task.name}: {counts} cached in {folder}', flush=True)
