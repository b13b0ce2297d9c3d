"""The vocabulary of tasks that are for any model: the one that is chosen, or T5's own.

    FEATURES = {'inputs': seqio.Feature(model_vocabulary.MODEL), 'targets': seqio.Feature(model_vocabulary.MODEL)}

Training and evaluation choose that of the checkpoint, so that such tasks are spelled as its model knows them.
"""

import functools
import logging
import os
import shutil
import urllib.error
import urllib.request

import seqio

from t5x_lite import choices, errors, remote
from t5x_lite.data import vocabulary

# 32,000 pieces (Raffel et al. 2020, section 2.2.1), in the folder that tasks elsewhere name gs://t5-data/vocabs.
T5_URL = 'https://storage.googleapis.com/t5-data/vocabs/cc_all.32000/sentencepiece.model'
_T5_FILE = 't5-cc_all.32000.model'
_TIMEOUT = 30  # Seconds without an answer.
# ByT5's: 256 bytes, 3 special ids, and sentinels up to a round number (Xue et al. 2022, section 3.1).
_BYTE_SENTINELS = 125


class ModelVocabulary(seqio.Vocabulary):
  """Stands for the vocabulary that `choices.vocabulary` names, whenever it is asked."""

  @property
  def chosen(self) -> seqio.Vocabulary:
    """The vocabulary itself.

    Raises:
      UserError: there is none under that name, or T5's cannot be had.
    """
    return open_vocabulary(choices.current().vocabulary)

  @property
  def bos_id(self):
    return self.chosen.bos_id

  @property
  def eos_id(self):
    return self.chosen.eos_id

  @property
  def unk_id(self):
    return self.chosen.unk_id

  @property
  def extra_ids(self):
    return self.chosen.extra_ids

  @property
  def vocab_size(self):
    return self.chosen.vocab_size

  @property
  def _base_vocab_size(self):
    return self.chosen._base_vocab_size

  def _encode(self, s):
    return self.chosen._encode(s)

  def _decode(self, ids):
    return self.chosen._decode(ids)

  def _encode_tf(self, s):
    return self.chosen._encode_tf(s)

  def _decode_tf(self, ids):
    return self.chosen._decode_tf(ids)

  def __repr__(self):
    return f'ModelVocabulary({self.chosen})'


MODEL = ModelVocabulary()


def resolved(of_feature: seqio.Vocabulary) -> seqio.Vocabulary:
  """Returns a feature's vocabulary, or the one that it stands for."""
  return of_feature.chosen if isinstance(of_feature, ModelVocabulary) else of_feature


@functools.cache
def open_vocabulary(name: str | None) -> seqio.Vocabulary:
  """Opens what `--vocabulary` names.

  Args:
    name: 'bytes'; a SentencePiece file; a run's folder, or its folder `vocabulary`; None for T5's own, which is fetched
      once and kept.

  Raises:
    UserError: it is none of these, or cannot be fetched.
  """
  if name is None:
    return vocabulary.open_sentencepiece(_fetch_t5())
  if name == 'bytes':
    return seqio.ByteVocabulary(extra_ids=_BYTE_SENTINELS)
  path = remote.path(name)
  for folder in (path, path / 'vocabulary'):
    if (folder / 'vocabulary.json').exists():
      return vocabulary.load(remote.local(folder))
  if not path.is_file():
    raise errors.UserError(
      f"--vocabulary={name} is neither a SentencePiece file, nor the folder of a run, nor 'bytes'"
    )
  return vocabulary.open_sentencepiece(remote.local(path))


def choose_from(*paths: str | os.PathLike | None) -> None:
  """Chooses the vocabulary that the first of some runs keeps, unless one has been chosen.

  Args:
    *paths: folders of runs or of their checkpoints; what is none, or keeps no vocabulary, is passed over.
  """
  if choices.current().vocabulary is not None:
    return
  for path in filter(None, paths):
    path = remote.path(path)
    for run in (path, *path.parents[:2]):  # RUN/checkpoints/STEP, too.
      if (run / 'vocabulary' / 'vocabulary.json').exists():
        choices.choose(vocabulary=str(run))
        return


def _fetch_t5():
  """Path of T5's SentencePiece file in the cache; it appears there complete or not at all."""
  path = os.path.join(vocabulary.cache_directory(), _T5_FILE)
  if os.path.exists(path):
    return path
  logging.getLogger(__name__).warning("fetching T5's vocabulary, once, from %s", T5_URL)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  partial = f'{path}.{os.getpid()}'
  try:
    with urllib.request.urlopen(T5_URL, timeout=_TIMEOUT) as remote, open(partial, 'wb') as file:
      shutil.copyfileobj(remote, file)
    vocabulary.open_sentencepiece(partial)
    os.replace(partial, path)
  except (OSError, errors.UserError) as error:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    raise errors.UserError(
      f"T5's vocabulary cannot be fetched from {T5_URL} ({reason}): pass --vocabulary=FILE, its "
      'SentencePiece file (the spiece.model of any T5 on the Hugging Face Hub is one), or another'
    ) from error
  finally:
    if os.path.exists(partial):
      os.unlink(partial)
  return path
