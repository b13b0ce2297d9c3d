"""From what a request asks to items of batches, and from batches to answers."""

import dataclasses
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite import errors, sharding
from t5x_lite.decoding import options
from t5x_lite.evaluation import answers, buckets, questions, requests, runs
from t5x_lite.serving import limits as serving_limits

_INT32 = np.iinfo(np.int32)
_SCORE = requests.Request('score')


@dataclasses.dataclass(frozen=True)
class _Item:
  """A question, and the request that it came with; those of all items of one key ask the same of the model."""

  request: requests.Request
  question: questions.Question


class Engine:
  """A model that many ask at once.

  `questions` and `pairs` may be called by any thread, `compile` and `answer` by the one that owns the devices.
  """

  def __init__(
    self,
    run: runs.Run,
    mesh: sharding.MeshConfig,
    lengths: Mapping[str, int],
    batch_size: int,
    decoding: options.DecodingConfig,
    limits: serving_limits.Limits,
    cut_long_inputs: bool = False,
  ):
    """Loads the model; compiles nothing yet.

    Args:
      run: its run, with one checkpoint.
      mesh: the devices.
      lengths: the most tokens of 'inputs' and 'targets'.
      batch_size: the most items of a batch.
      decoding: the options of requests, where they say nothing else.
      limits: see there.
      cut_long_inputs: whether inputs that are too long are cut, and not refused.

    Raises:
      UserError: the options or the batch do not fit the model, the devices or the limits.
    """
    self._tokenizer = questions.Tokenizer(
      run.load_vocabulary(), lengths, add_eos=run.inputs_end_in_eos, cut=cut_long_inputs
    )
    self._limits = limits
    self._decoding = decoding
    self._decoder = self._resolve(decoding)
    self._numbers = itertools.count()
    self._model = run.model(mesh, limits.max_programs)
    sharding.check_batch_size(batch_size, self._model.mesh)
    self._params = run.restore(run.steps[0], self._model)
    # A text that comes alone does not pay for a whole batch.
    self._batch_sizes = sorted({sharding.num_batch_shards(self._model.mesh), batch_size})

  def compile(self):
    """Compiles what requests need that have no options of their own."""
    longest = self._tokenizer.lengths['inputs']
    lengths = {buckets.bucket(length, longest) for length in range(1, longest + 1)}
    for length, batch_size in itertools.product(sorted(lengths), self._batch_sizes):
      # Nothing but padding is decoded no further than it takes to see that.
      padding = questions.Question({}, np.zeros(length, np.int32), np.zeros(1, np.int32), seed=0)
      for request in (self._request(self._decoding), _SCORE):
        self.answer(None, [_Item(request, padding)] * batch_size)

  def questions(
    self, texts: Sequence[str], given: Mapping[str, Any]
  ) -> tuple[Hashable, list[_Item]]:
    """Returns the key and the items of texts to answer.

    Args:
      texts: the texts.
      given: fields of `DecodingConfig` that are others than the server's. With a seed, what is drawn is that of
        `t5x-lite infer` for the same texts; without, it is another for each text that the server is asked.

    Raises:
      UserError: they are beyond the limits or the model, or do not go together.
    """
    decoding = dataclasses.replace(self._decoding, **given)
    decoder = self._decoder
    if given.keys() - {'seed'}:
      self._check_entries(given)
      decoder = self._resolve(decoding)
      if self._limits.max_programs == 1 and decoder != self._decoder:
        raise errors.UserError(
          f'{", ".join(sorted(given))}: this server takes no options but its own and a seed'
        )
    numbers = itertools.count() if 'seed' in given else self._numbers
    request, seed = self._request(decoding), decoding.seed
    asked = self._asked([{'inputs': text} for text in texts], self._tokenizer)
    return decoder, [
      _Item(request, dataclasses.replace(each, number=next(numbers) % _INT32.max, seed=seed))
      for each in asked
    ]

  def _check_entries(self, given):
    for name in ('banned', 'forced', 'allowed'):
      number = len(given.get(name) or ())
      if number > self._limits.max_texts:
        raise errors.UserError(
          f'{name} has {number} entries, but may have {self._limits.max_texts}'
        )

  def _request(self, decoding):
    """A request whose program is that of other seeds, too."""
    return requests.Request(decoding=dataclasses.replace(decoding, seed=0))

  def _resolve(self, decoding):
    length = self._tokenizer.lengths['targets']
    width = max(decoding.num_beams, decoding.num_answers)
    for what, value, most, why in (
      ('num_beams and num_answers', width, self._limits.max_beams, 'MAX_BEAMS'),
      ('max_new_tokens', decoding.max_new_tokens or 0, length, 'the length of the targets'),
    ):
      if value > most:
        raise errors.UserError(f'{what}={value} may be at most {most}, {why}')
    if not 0 <= decoding.seed <= _INT32.max:
      raise errors.UserError(f'seed={decoding.seed} may be from 0 to {_INT32.max}')
    decoder = self._request(decoding).decoding.resolve(self._tokenizer.vocabulary, length)
    if len(decoder.prefix) > length:
      raise errors.UserError(
        f'prefix is {len(decoder.prefix)} tokens, but targets have at most {length}'
      )
    return decoder

  def pairs(self, inputs: Sequence[str], targets: Sequence[str]) -> tuple[Hashable, list[_Item]]:
    """Returns the key and the items of targets to score, one for each input.

    Raises:
      UserError: they are not as many, or beyond the limits or the model.
    """
    if len(inputs) != len(targets):
      raise errors.UserError(f'{len(inputs)} inputs, but {len(targets)} targets: give one to each')
    rows = zip(inputs, targets, strict=True)
    fields = [{'inputs': text, 'targets': target} for text, target in rows]
    tokenizer = dataclasses.replace(self._tokenizer, needs=_SCORE.needs)
    return _SCORE.mode, [_Item(_SCORE, each) for each in self._asked(fields, tokenizer)]

  def _asked(self, fields, tokenizer):
    if not 0 < len(fields) <= self._limits.max_texts:
      raise errors.UserError(
        f'inputs has {len(fields)} texts, but may have 1 to {self._limits.max_texts}'
      )
    asked = list(questions.of_texts(fields, tokenizer))
    for each in asked:
      if each.error is not None:
        raise errors.UserError(each.error)
    return asked

  def answer(self, key: Hashable, items: Sequence[_Item]) -> list[dict[str, Any]]:
    """Returns for each item what `t5x-lite infer` prints.

    Args:
      key: that of the items.
      items: from `questions` or `pairs`, at most a batch.
    """
    del key
    answered = answers.answer(
      enumerate(item.question for item in items),
      items[0].request,
      self._model,
      self._params,
      self._tokenizer,
      next(size for size in self._batch_sizes if size >= len(items)),
    )
    return list(answers.in_order(answered))
