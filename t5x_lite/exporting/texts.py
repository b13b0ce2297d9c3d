"""Makes token ids of texts, and texts of ids, for the model in this folder.

It needs sentencepiece, or nothing where the ids are bytes.

    vocabulary = texts.Vocabulary()
    tokens, scores = model.predict(vocabulary.encode(['a text', 'another']))
    print(vocabulary.decode(tokens[:, 0]))
"""

import json
import pathlib


class Vocabulary:
  """What manifest.json describes."""

  def __init__(self, folder=pathlib.Path(__file__).parent):
    folder = pathlib.Path(folder)
    self.manifest = json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))
    self.pieces = None
    if self.manifest['vocabulary']['type'] == 'sentencepiece':
      import sentencepiece

      file = str(folder / 'sentencepiece.model')
      self.pieces = sentencepiece.SentencePieceProcessor(model_file=file)

  def encode(self, texts, feature='inputs'):
    """Returns lists of ids, as inputs or as 'targets'; a text without any is empty, without EOS.

    Raises:
      ValueError: a text is too long, and such texts were not to be cut.
    """
    eos = [self.manifest['eos_id']] if self.manifest['add_eos'][feature] else []
    length = self.manifest['lengths'][feature]
    most = length - len(eos)
    if self.pieces is not None:
      ids = self.pieces.encode(list(texts))
    else:
      ids = [[3 + byte for byte in text.encode()] for text in texts]
    longest = max(map(len, ids), default=0)
    if longest > most and not self.manifest['cut'][feature]:
      raise ValueError(f'{feature} of {longest + len(eos)} tokens, but {length} are the most')
    return [[*each[:most], *eos] if each else [] for each in ids]

  def decode(self, rows):
    """Returns the texts of rows of ids, each up to its EOS."""
    return [self._decode(list(map(int, row))) for row in rows]

  def _decode(self, ids):
    if self.manifest['eos_id'] in ids:
      ids = ids[: ids.index(self.manifest['eos_id'])]
    if self.pieces is None:
      return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors='ignore')
    # A model may have more ids than there are pieces.
    size, unknown = self.pieces.get_piece_size(), self.pieces.unk_id()
    return self.pieces.decode([i if i < size else unknown for i in ids])
