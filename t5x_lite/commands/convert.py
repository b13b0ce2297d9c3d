"""`t5x-lite convert`: from a run to a folder of Hugging Face's transformers, or to a run from another format."""

from t5x_lite.models.config import DTYPES

HELP = (
  "write a run as a folder for Hugging Face's transformers, or weights of another project as a run"
)


def add_arguments(parser):
  """Adds the flags of this command."""
  parser.add_argument(
    'source',
    metavar='SOURCE',
    help="a run's folder, for its latest checkpoint, or one of its checkpoints/STEP; or weights of "
    'another project: a folder of Hugging Face, a checkpoint of T5X or of Mesh-TensorFlow',
  )
  parser.add_argument(
    'output',
    metavar='FOLDER',
    help='the folder to write, for transformers if SOURCE is a run, otherwise a run; must not exist',
  )
  parser.add_argument(
    '--dtype', choices=DTYPES, default='float32', help='of the weights (default: %(default)s)'
  )
  parser.add_argument(
    '--vocabulary',
    metavar='FILE',
    help='SentencePiece model of the weights, where SOURCE does not hold it',
  )
  parser.add_argument(
    '--base',
    metavar='PATH',
    help='the base of a run that keeps its trained parameters alone, if it has moved',
  )


def run(args):
  """Writes the folder and says how it is used."""
  from t5x_lite.checkpoints import origins

  origin = origins.open_origin(args.source, args.base)
  if isinstance(origin, origins.Checkpoint):
    _to_huggingface(origin, args)
  else:
    _to_run(origin, args)


def _to_huggingface(checkpoint, args):
  from t5x_lite import errors, remote
  from t5x_lite.checkpoints import huggingface, merging
  from t5x_lite.data import vocabulary as vocabularies

  if args.vocabulary is not None:
    raise errors.UserError(
      f'--vocabulary={args.vocabulary}: the run {args.source} keeps its own; leave the flag out'
    )
  vocabulary, tokenizer = None, {}
  if checkpoint.vocabulary is not None:
    vocabulary = vocabularies.load(remote.local(checkpoint.folder / 'vocabulary'))
    tokenizer = huggingface.tokenizer_files(vocabulary)
  weights = checkpoint if checkpoint.model.adapter is None else merging.merged(checkpoint)
  huggingface.write_folder(weights, args.output, dtype=args.dtype, tokenizer=tokenizer)
  print(f'{args.output}: {checkpoint.path} for transformers, in {args.dtype}')
  print(f'transformers.T5ForConditionalGeneration.from_pretrained({args.output!r})')
  if tokenizer:
    print(f'transformers.AutoTokenizer.from_pretrained({args.output!r})')
  elif vocabulary is None:
    print('without a tokenizer: the run has no vocabulary')
  else:
    print(f'without a tokenizer: transformers have none for this {type(vocabulary).__name__}')


def _to_run(weights, args):
  from t5x_lite.checkpoints import conversion, foreign, huggingface
  from t5x_lite.data import vocabulary as vocabularies

  if args.vocabulary is not None:
    vocabulary = vocabularies.open_sentencepiece(args.vocabulary)
  else:
    vocabulary = huggingface.load_vocabulary(weights.path) if weights.vocabulary else None
  model = weights.model or foreign.model_of(weights.shapes)
  conversion.write_run(weights, model, args.output, dtype=args.dtype, vocabulary=vocabulary)
  print(f'{args.output}: {weights.path} as a run, in {args.dtype}')
  if weights.model is None:
    print(
      f'taken to be of a T5 with mlp_activations={model.mlp_activations} and '
      f'relative_attention_max_distance={model.relative_attention_max_distance}, which it does not say'
    )
  if vocabulary is None:
    print('without a vocabulary, which `t5x-lite infer` needs: add --vocabulary=FILE')
  else:
    print(f't5x-lite infer --gin.MODEL_DIR={args.output}')
  print(
    f't5x-lite train --gin_file={args.output}/{conversion.GIN_FILE} --gin_file=runs/finetune.gin '
    f'--gin.INITIAL_CHECKPOINT_PATH={args.output} ...'
  )
