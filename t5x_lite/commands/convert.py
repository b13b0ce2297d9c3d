"""`t5x-lite convert`: writes a checkpoint as a folder of Hugging Face's transformers."""

from t5x_lite.models.config import DTYPES

HELP = "write a checkpoint as a folder that Hugging Face's transformers read"


def add_arguments(parser):
  """Adds the flags of this command."""
  parser.add_argument(
    'source',
    metavar='SOURCE',
    help="a run's folder, for its latest checkpoint, or one of its checkpoints/STEP",
  )
  parser.add_argument('output', metavar='FOLDER', help='the folder to write; must not exist')
  parser.add_argument(
    '--dtype', choices=DTYPES, default='float32', help='of the weights (default: %(default)s)'
  )


def run(args):
  """Writes the folder and says how it is loaded."""
  from t5x_lite import errors
  from t5x_lite.checkpoints import huggingface, origins
  from t5x_lite.data import vocabulary as vocabularies

  origin = origins.open_origin(args.source)
  if not isinstance(origin, origins.Checkpoint):
    raise errors.UserError(f'{args.source} is a folder for transformers already')
  tokenizer = {}
  vocabulary = vocabularies.load(origin.folder / 'vocabulary')
  if model_file := vocabularies.t5_sentencepiece_file(vocabulary):
    tokenizer = huggingface.tokenizer_files(model_file, vocabulary.extra_ids)
  huggingface.write_folder(origin, args.output, dtype=args.dtype, tokenizer=tokenizer)
  print(f'{args.output}: {origin.path} for transformers, in {args.dtype}')
  print(f'transformers.T5ForConditionalGeneration.from_pretrained({args.output!r})')
  if tokenizer:
    print(f'transformers.AutoTokenizer.from_pretrained({args.output!r})')
  else:
    print(f'without a tokenizer: transformers have none for this {type(vocabulary).__name__}')
