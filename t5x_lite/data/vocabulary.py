"""Vocabularies: train them, keep them with a model, and tell by content whether two are the same.

Ids follow T5: 0 pads, 1 ends a sequence, 2 is unknown, and sentinels (`<extra_id_0>`, ...) count down from the
last id. Two SentencePiece files with equal pieces are one vocabulary, wherever they lie.
"""

import base64
import hashlib
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator

import sentencepiece
import seqio
from google.protobuf import message
from sentencepiece import sentencepiece_model_pb2

from t5x_lite import errors
from t5x_lite.data import sources

NUM_SENTINELS = 100


def train_sentencepiece(
  texts: Iterable[str],
  model_file: str | os.PathLike,
  *,
  vocab_size: int,
  num_sentinels: int = NUM_SENTINELS,
  model_type: str = 'unigram',
  character_coverage: float = 0.9995,
  byte_fallback: bool = False,
  required_characters: str = '',
) -> seqio.SentencePieceVocabulary:
  """Trains a SentencePiece vocabulary; equal texts give an equal vocabulary.

  Args:
    texts: documents or sentences; they are cut at line ends, and at spaces where a line is long.
    model_file: the file to write; it appears complete or not at all.
    vocab_size: number of ids in all: special ids, pieces and sentinels.
    num_sentinels: how many of the ids are sentinels, at the end. They are not in the file.
    model_type: 'unigram' (T5's) or 'bpe'.
    character_coverage: share of the texts' characters that get a piece; the rarest become unknown.
    byte_fallback: whether characters without a piece are spelled in bytes, not unknown. Costs 256 ids.
    required_characters: what gets a piece however rare it is, such as the underscore of labels.

  Returns:
    The vocabulary, as a task wants it: SentencePieceVocabulary(model_file, extra_ids=num_sentinels).

  Raises:
    UserError: if there is no text, or the size does not suit it.
  """
  model_file = os.fspath(model_file)
  if vocab_size <= num_sentinels + 3:
    raise errors.UserError(
      f'a vocabulary of {vocab_size} ids has no room for pieces beside {num_sentinels} sentinels and 3 special ids'
    )
  model = io.BytesIO()
  reading_failed = []

  def lines():
    try:
      yield from _lines(texts)
    except Exception as error:
      reading_failed.append(error)  # SentencePiece would tell of it in words of its own.
      raise

  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=lines(),
      model_writer=model,
      vocab_size=vocab_size - num_sentinels,
      model_type=model_type,
      character_coverage=character_coverage,
      byte_fallback=byte_fallback,
      required_chars=required_characters,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      max_sentence_length=1 << 20,
      # Fixed, since sums over another number of threads are rounded otherwise.
      num_threads=4,
      minloglevel=2,
    )
  except (RuntimeError, OSError) as error:
    if reading_failed:
      raise reading_failed[0] from None
    reason = ' '.join(str(error).split('] ')[-1].split())
    limit = re.search(r'<= (\d+)', reason)
    if limit:
      reason = f'there is text for {int(limit[1]) + num_sentinels} at most'
    raise errors.UserError(
      f'no vocabulary of {vocab_size} ids, {num_sentinels} of them sentinels, can be made of these texts: {reason}'
    ) from None
  _write_atomically(model_file, model.getvalue())
  return seqio.SentencePieceVocabulary(model_file, extra_ids=num_sentinels)


class TrainedOnFirstUse(seqio.SentencePieceVocabulary):
  """A SentencePiece vocabulary whose file is trained and kept when it is first needed."""

  def __init__(
    self,
    model_file: str,
    texts: Callable[[], Iterable[str]],
    *,
    vocab_size: int,
    num_sentinels: int = NUM_SENTINELS,
    required_characters: str = '',
  ):
    """Names the file and what to train it on.

    Args:
      model_file: read if it exists, otherwise trained and written. Its name should change with the texts.
      texts: a function at module level, called only for training.
      vocab_size: number of ids in all, as in `train_sentencepiece`.
      num_sentinels: how many of them are sentinels.
      required_characters: as in `train_sentencepiece`.
    """
    super().__init__(model_file, extra_ids=num_sentinels)
    self._texts = texts
    self._trained_size = vocab_size
    self._required_characters = required_characters

  def _model_context(self):
    if self._model is None and not os.path.exists(self.sentencepiece_model_file):
      logging.getLogger(__name__).warning(
        'training a vocabulary of %d ids, once, for %s',
        self._trained_size,
        self.sentencepiece_model_file,
      )
      train_sentencepiece(
        self._texts(),
        self.sentencepiece_model_file,
        vocab_size=self._trained_size,
        num_sentinels=self.extra_ids,
        required_characters=self._required_characters,
      )
    return super()._model_context()


def cache_directory() -> str:
  """Where vocabularies of our own tasks are kept: $T5X_LITE_CACHE, or t5x_lite in the user's cache folder."""
  user_cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.environ.get('T5X_LITE_CACHE') or os.path.join(user_cache, 't5x_lite')


def task_texts(
  task: seqio.Task | seqio.Mixture, *, split: str = 'train', max_examples: int | None = None
) -> Iterator[str]:
  """Texts of a task as they are just before it tokenizes them; of every task of a mixture, in turn.

  Args:
    task: any task that has seqio.preprocessors.tokenize among its preprocessors.
    split: the split to read.
    max_examples: how many examples of each task to read; None reads all.
  """
  for subtask in seqio.get_subtasks(task):
    if split not in subtask.splits:
      continue
    dataset = subtask.source.get_dataset(split=split, shuffle=False)
    for preprocessor in subtask.preprocessors:
      if getattr(preprocessor, 'func', preprocessor) in (
        seqio.preprocessors.tokenize,
        seqio.preprocessors.tokenize_and_append_eos,
      ):
        break
      dataset = seqio.utils.add_kwargs_to_transform(
        preprocessor, sequence_length=None, output_features=subtask.output_features
      )(dataset)
    else:
      raise errors.UserError(
        f'{subtask.name!r} has no seqio.preprocessors.tokenize: train on its files with --input'
      )
    with sources.readable_errors():
      for example in dataset.take(-1 if max_examples is None else max_examples):
        for name in subtask.output_features:
          text = example[name].numpy().decode() if name in example else ''
          if text:
            yield text


def fingerprint(vocabulary: seqio.Vocabulary) -> dict:
  """What a vocabulary's ids mean, as a small JSON-able dict; equal if and only if all ids mean the same.

  Returns:
    `type`, `size` (sentinels included) and `sha256` of the content.
  """
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    kind = 'sentencepiece'
    content = _sentencepiece_content(vocabulary.sp_model)
  elif isinstance(vocabulary, seqio.ByteVocabulary):
    kind = 'bytes'
    content = [vocabulary.eos_id, vocabulary.unk_id, vocabulary.extra_ids]
  elif isinstance(vocabulary, seqio.PassThroughVocabulary):
    kind = 'pass_through'
    content = [vocabulary.eos_id]
  else:
    kind = type(vocabulary).__name__
    content = [str(vocabulary.decode([i])) for i in range(vocabulary.vocab_size)]
  digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
  return {'type': kind, 'size': vocabulary.vocab_size, 'sha256': digest}


def open_sentencepiece(
  model_file: str | os.PathLike, num_sentinels: int | None = None
) -> seqio.SentencePieceVocabulary:
  """A SentencePiece file with T5's sentinels after its pieces.

  Args:
    model_file: the file.
    num_sentinels: how many; None adds T5's 100, unless they are among the pieces already.

  Raises:
    UserError: if it is no such file.
  """
  model_file = os.fspath(model_file)
  try:
    if num_sentinels is None:
      inside = any('<extra_id_0>' in p.piece for p in _model_of(model_file).pieces)
      num_sentinels = 0 if inside else NUM_SENTINELS
    vocabulary = seqio.SentencePieceVocabulary(model_file, extra_ids=num_sentinels)
    vocabulary.vocab_size  # noqa: B018 - reads the file.
  except (OSError, RuntimeError, ValueError, message.DecodeError) as error:
    raise errors.UserError(f'{model_file} is no SentencePiece model: {error}') from error
  return vocabulary


def t5_sentencepiece_file(vocabulary: seqio.Vocabulary) -> str | None:
  """The file of a vocabulary that is what its SentencePiece file says, with T5's sentinels; else None."""
  plain = (
    isinstance(vocabulary, seqio.SentencePieceVocabulary)
    and vocabulary._reverse_extra_ids
    and not vocabulary._normalizer_spec_overrides
  )
  return vocabulary.sentencepiece_model_file if plain else None


def check_same(
  model_fingerprint: dict,
  task_fingerprint: dict,
  *,
  model: str = 'the model',
  task: str = 'the task',
) -> None:
  """Refuses a model and a task whose ids mean different things.

  Args:
    model_fingerprint, task_fingerprint: of the vocabularies, from `fingerprint`.
    model, task: how to name the two sides.

  Raises:
    UserError: naming both.
  """

  def describe(fingerprint):
    return f'{fingerprint["type"]}, {fingerprint["size"]} ids, sha256 {fingerprint["sha256"][:12]}'

  if model_fingerprint != task_fingerprint:
    raise errors.UserError(
      f'the vocabulary of {model} ({describe(model_fingerprint)}) is not that of {task} '
      f'({describe(task_fingerprint)}): use the vocabulary that the model was trained with'
    )


def check_fits(vocabulary: seqio.Vocabulary, vocab_size: int) -> None:
  """Raises UserError if a model of `vocab_size` rows has none for some of the vocabulary's ids."""
  if vocabulary.vocab_size > vocab_size:
    raise errors.UserError(
      f'the vocabulary has {vocabulary.vocab_size} ids, but the model only T5Config.vocab_size='
      f'{vocab_size}: raise it'
    )


def save(vocabulary: seqio.Vocabulary, directory: str | os.PathLike) -> None:
  """Keeps a vocabulary in a folder: `vocabulary.json`, and `sentencepiece.model` where there is one."""
  description = {'fingerprint': fingerprint(vocabulary), 'extra_ids': vocabulary.extra_ids}
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    overrides = vocabulary._normalizer_spec_overrides
    description['normalizer_spec_overrides'] = (
      base64.b64encode(overrides.SerializeToString()).decode() if overrides else None
    )
    description['reverse_extra_ids'] = vocabulary._reverse_extra_ids
    with seqio.vocabularies.tf.io.gfile.GFile(vocabulary.sentencepiece_model_file, 'rb') as file:
      _write_atomically(os.path.join(directory, 'sentencepiece.model'), file.read())
  elif isinstance(vocabulary, seqio.PassThroughVocabulary):
    description['eos_id'] = vocabulary.eos_id
  content = json.dumps(description, indent=2) + '\n'
  _write_atomically(os.path.join(directory, 'vocabulary.json'), content.encode())


def load(directory: str | os.PathLike) -> seqio.Vocabulary:
  """The vocabulary that `save` kept in a folder.

  Raises:
    UserError: if there is none, if its files do not belong together, or if its type needs its task.
  """
  path = os.path.join(directory, 'vocabulary.json')
  if not os.path.exists(path):
    raise errors.UserError(
      f'{os.fspath(directory)} keeps no vocabulary: {path} is missing. A run keeps one in '
      'MODEL_DIR/vocabulary; a SentencePiece file is seqio.SentencePieceVocabulary(FILE, extra_ids=100)'
    )
  with open(path, encoding='utf-8') as file:
    description = json.load(file)
  kind = description['fingerprint']['type']
  if kind == 'sentencepiece':
    overrides = description['normalizer_spec_overrides']
    vocabulary = seqio.SentencePieceVocabulary(
      os.path.join(directory, 'sentencepiece.model'),
      extra_ids=description['extra_ids'],
      normalizer_spec_overrides=overrides
      and sentencepiece_model_pb2.NormalizerSpec.FromString(base64.b64decode(overrides)),
      reverse_extra_ids=description['reverse_extra_ids'],
    )
  elif kind == 'bytes':
    vocabulary = seqio.ByteVocabulary(extra_ids=description['extra_ids'])
  elif kind == 'pass_through':
    vocabulary = seqio.PassThroughVocabulary(
      description['fingerprint']['size'], eos_id=description['eos_id']
    )
  else:
    raise errors.UserError(
      f'{path} describes a {kind}, which cannot be made from a file: name a task that has it'
    )
  check_same(
    description['fingerprint'], fingerprint(vocabulary), model=path, task='the files beside'
  )
  return vocabulary


def _sentencepiece_content(serialized):
  """All of a SentencePiece model that gives ids their meaning, and nothing of how it was trained."""
  model = sentencepiece_model_pb2.ModelProto.FromString(serialized)
  return {
    'pieces': [[p.piece, p.score, p.type] for p in model.pieces],
    'normalizer': base64.b64encode(model.normalizer_spec.SerializeToString()).decode(),
    'model_type': model.trainer_spec.model_type,
    'byte_fallback': model.trainer_spec.byte_fallback,
    'whitespace_as_suffix': model.trainer_spec.treat_whitespace_as_suffix,
  }


def _model_of(model_file):
  with open(model_file, 'rb') as file:
    return sentencepiece_model_pb2.ModelProto.FromString(file.read())


def _lines(texts, *, max_length=4000):
  """Cuts texts into lines of at most about `max_length` characters, which SentencePiece holds in memory."""
  for text in texts:
    for line in text.splitlines():
      while len(line) > max_length:
        end = line.rfind(' ', 1, max_length)
        end = max_length if end < 0 else end
        yield line[:end]
        line = line[end:]
      if line.strip():
        yield line


def _write_atomically(path, content):
  directory = os.path.dirname(os.path.abspath(path))
  os.makedirs(directory, exist_ok=True)
  descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=os.path.basename(path))
  try:
    with os.fdopen(descriptor, 'wb') as file:
      file.write(content)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
