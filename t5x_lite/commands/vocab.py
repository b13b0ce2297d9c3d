"""`t5x-lite vocab`: trains a SentencePiece vocabulary from a task's texts or from files."""

HELP = 'train a SentencePiece vocabulary from a task or from text files'


def add_arguments(parser):
  """Adds the flags of this command."""
  parser.add_argument('--output', required=True, metavar='FILE.model', help='the file to write')
  parser.add_argument(
    '--size', type=int, default=32100, help='ids in all, sentinels included (default: %(default)s)'
  )
  parser.add_argument(
    '--sentinels', type=int, default=100, help='how many ids are sentinels (default: %(default)s)'
  )
  texts = parser.add_mutually_exclusive_group(required=True)
  texts.add_argument('--task', metavar='NAME', help='a task or mixture whose texts to train on')
  texts.add_argument(
    '--input',
    nargs='+',
    metavar='GLOB',
    help='text, .jsonl, .csv or .tsv files to train on, gzipped (.gz) or not',
  )
  parser.add_argument(
    '--split', default='train', help='split of the task to use (default: %(default)s)'
  )
  parser.add_argument(
    '--field', default='text', help='field of the .jsonl, .csv or .tsv files (default: %(default)s)'
  )
  parser.add_argument(
    '--max-examples', type=int, metavar='N', help='use the first N examples (of each task)'
  )
  parser.add_argument(
    '--model-type',
    choices=('unigram', 'bpe'),
    default='unigram',
    help="kind of vocabulary (default: unigram, which is T5's)",
  )
  parser.add_argument(
    '--byte-fallback', action='store_true', help='spell characters without a piece in bytes'
  )
  parser.add_argument(
    '--required-characters',
    default='',
    metavar='TEXT',
    help='characters that get a piece however rare they are, such as the _ of labels',
  )


def run(args):
  """Trains the vocabulary and prints how a task names it."""
  from t5x_lite.data import batches, vocabulary

  if args.task:
    import t5x_lite.tasks  # noqa: F401 - registers them

    texts = vocabulary.task_texts(
      batches.get_mixture_or_task(args.task), split=args.split, max_examples=args.max_examples
    )
  else:
    texts = _file_texts(args.input, args.field, args.max_examples)
  trained = vocabulary.train_sentencepiece(
    texts,
    args.output,
    vocab_size=args.size,
    num_sentinels=args.sentinels,
    model_type=args.model_type,
    byte_fallback=args.byte_fallback,
    required_characters=args.required_characters,
  )
  print(f'{args.output}: {trained.vocab_size} ids, the last {args.sentinels} of them sentinels')
  print(f'seqio.SentencePieceVocabulary({args.output!r}, extra_ids={args.sentinels})')


def _file_texts(patterns, field, max_examples):
  """Texts of files of any kind, which their names tell."""
  import itertools

  from t5x_lite.data import sources

  kinds = {
    '.jsonl': sources.JsonLinesDataSource,
    '.json': sources.JsonLinesDataSource,
    '.csv': sources.CsvDataSource,
    '.tsv': sources.TsvDataSource,
  }

  def texts():
    for file in sources.matching_files(patterns):
      suffix = next((s for s in kinds if file.removesuffix('.gz').endswith(s)), None)
      if suffix:
        source, name = kinds[suffix]({'train': file}, fields=[field]), field
      else:
        source, name = sources.TextLinesDataSource({'train': file}), 'text'
      with sources.readable_errors():
        for example in source.get_dataset('train', shuffle=False):
          yield example[name].numpy().decode()

  return itertools.islice(texts(), max_examples)
