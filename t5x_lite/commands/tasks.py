"""`t5x-lite tasks`: lists the tasks there are; `t5x-lite tasks show NAME` looks at one's examples."""

from t5x_lite import errors

HELP = 'list tasks and mixtures, or show examples of one'

_LENGTHS = {'inputs': 512, 'targets': 114}
# Over how many rows the padding share is measured.
_ROWS_FOR_PADDING = 256


def add_arguments(parser):
  """Adds the arguments of this command."""
  parser.add_argument(
    'action', nargs='?', choices=('list', 'show'), default='list', help='default: list'
  )
  parser.add_argument('name', nargs='?', metavar='NAME', help='task or mixture to show')
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


def run(args):
  """Prints the list, or the examples."""
  import t5x_lite.tasks  # noqa: F401 - registers them

  if args.action == 'list':
    _list()
  elif args.name is None:
    raise errors.UserError('which task? t5x-lite tasks show NAME; `t5x-lite tasks` lists them')
  else:
    _show(args)


def parse_lengths(text: str) -> dict[str, int]:
  """Reads 'inputs=512,targets=114'; a ValueError makes argparse name the flag."""
  lengths = {}
  for item in text.split(','):
    name, _, length = item.partition('=')
    lengths[name.strip()] = int(length)
  return lengths


def _list():
  import seqio

  rows = [('NAME', 'KIND', 'SPLITS', 'METRICS')]
  for kind, registry in (('task', seqio.TaskRegistry), ('mixture', seqio.MixtureRegistry)):
    for name in sorted(registry.names()):
      provider = registry.get(name)
      metrics = {
        getattr(function, '__name__', str(function))
        for task in seqio.get_subtasks(provider)
        for function in task.metric_fns
      }
      rows.append(
        (name, kind, ','.join(sorted(_splits(provider))), ','.join(sorted(metrics)) or '-')
      )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print('  '.join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def _splits(provider):
  try:
    return provider.splits
  except Exception:
    # A TFDS data set that is not there cannot tell its splits; list the task still.
    return ('?',)


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
