"""How answers are decoded, in words that a command line, a notebook or a request can say."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from t5x_lite import errors
from t5x_lite.decoding import logits, loop, sampling, search


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
  """How answers are decoded: greedily unless something else is asked for.

  Texts are tokenized by the model's vocabulary; a word within a sentence often is another token than at its start.

  Attributes:
    num_beams: beginnings of answers that beam search keeps; 1 is no beam search.
    num_answers: answers to each input: the best of the beams, or as many samples.
    alpha: exponent of beam search's length penalty; 0 is none.
    length_penalty: its form, 'brevity' (T5X's) or 'length' (Hugging Face's), see `search.BeamSearch`.
    num_beam_groups: groups of beams that avoid each other's tokens.
    diversity_penalty: what such a token costs, in nats.
    temperature: above 0, tokens are drawn at random from probabilities ** (1 / temperature).
    top_k: draw from the k most probable tokens; 0 is all.
    top_p: draw from the most probable tokens that together have this probability.
    min_p: draw from tokens that are at least this share as probable as the most probable one.
    seed: of the draws.
    repetition_penalty: above 1, what was decoded becomes less probable, see `logits.RepetitionPenalty`.
    no_repeat_ngram_size: n-grams of this size come but once; 0 is any number of times.
    min_new_tokens: tokens before EOS.
    max_new_tokens: the most tokens, EOS included; None is the length of the targets.
    banned: texts, token ids or lists of them that do not come.
    forced: token, as a text or an id, by its position from 0; -1 is the last position.
    allowed: texts of the only answers there are; None is any.
    prefix: text with which all answers begin.
    transforms: functions of logits and `logits.Context`, applied after the others.
  """

  num_beams: int = 1
  num_answers: int = 1
  alpha: float = 0.6
  length_penalty: str = 'brevity'
  num_beam_groups: int = 1
  diversity_penalty: float = 0.0
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  seed: int = 0
  repetition_penalty: float = 1.0
  no_repeat_ngram_size: int = 0
  min_new_tokens: int = 0
  max_new_tokens: int | None = None
  banned: Sequence[Any] = ()
  forced: Mapping[int, Any] = dataclasses.field(default_factory=dict)
  allowed: Sequence[str] | None = None
  prefix: str = ''
  transforms: Sequence[Callable] = ()

  def __post_init__(self):
    for name, least in (
      ('num_beams', 1),
      ('num_answers', 1),
      ('num_beam_groups', 1),
      ('diversity_penalty', 0),
      ('temperature', 0),
      ('top_k', 0),
      ('no_repeat_ngram_size', 0),
      ('min_new_tokens', 0),
      ('alpha', 0),
    ):
      self._check(name, getattr(self, name) >= least, f'at least {least}')
    self._check(
      'max_new_tokens',
      self.max_new_tokens is None or self.max_new_tokens >= 1,
      'at least 1, or None',
    )
    self._check('top_p', 0 < self.top_p <= 1, 'above 0 and at most 1')
    self._check('min_p', 0 <= self.min_p <= 1, 'from 0 to 1')
    self._check('repetition_penalty', self.repetition_penalty > 0, 'above 0')
    for name in ('temperature', 'repetition_penalty', 'alpha', 'diversity_penalty'):
      self._check(name, math.isfinite(getattr(self, name)), 'a number')
    forms = ' or '.join(map(repr, search.LENGTH_PENALTIES))
    self._check('length_penalty', self.length_penalty in search.LENGTH_PENALTIES, forms)
    self._check(
      'allowed', self.allowed is None or len(self.allowed) > 0, 'one text at least, or None'
    )
    self._check_together()

  def _check(self, name, holds, wanted):
    if not holds:
      raise errors.UserError(f'{name}={getattr(self, name)!r} must be {wanted}')

  def _check_together(self):
    if self.num_beams > 1 and self.temperature > 0:
      raise errors.UserError(
        f'num_beams={self.num_beams} and temperature={self.temperature} exclude each other: beam search takes the '
        'best, and does not draw'
      )
    if self.num_beams > 1 and self.num_answers > self.num_beams:
      raise errors.UserError(
        f'num_answers={self.num_answers} are more than num_beams={self.num_beams}: raise num_beams'
      )
    if self.num_beams == 1 and self.num_answers > 1 and self.temperature == 0:
      raise errors.UserError(
        f'num_answers={self.num_answers} needs num_beams={self.num_answers} or more, or a temperature above 0: '
        'greedy decoding has one answer'
      )
    if self.num_beams % self.num_beam_groups:
      raise errors.UserError(
        f'num_beams={self.num_beams} is not divisible by num_beam_groups={self.num_beam_groups}'
      )
    defaults = {field.name: field.default for field in dataclasses.fields(self)}
    for holds, what, names in (
      (self.temperature > 0, 'a temperature above 0', ('top_k', 'top_p', 'min_p')),
      (self.num_beams > 1, 'num_beams above 1', ('alpha', 'length_penalty')),
      (self.num_beam_groups > 1, 'num_beam_groups above 1', ('diversity_penalty',)),
    ):
      for name in names:
        value = getattr(self, name)
        if not holds and value != defaults[name]:
          raise errors.UserError(f'{name}={value!r} does nothing without {what}')

  def changes(self) -> dict[str, Any]:
    """Returns the fields that are not as they are by default."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    default = DecodingConfig()
    return {name: value for name, value in fields.items() if value != getattr(default, name)}

  def resolve(self, vocabulary, targets_length: int) -> 'Decoder':
    """Returns what `loop.decode` needs.

    Args:
      vocabulary: the model's, with `encode` and `eos_id`.
      targets_length: the most tokens where max_new_tokens does not say it.

    Raises:
      UserError: texts without tokens, or answers that are longer than may be.
    """
    max_new_tokens = self.max_new_tokens or targets_length
    return Decoder(
      strategy=self._strategy(vocabulary.eos_id),
      transforms=tuple(self._transforms(vocabulary, max_new_tokens)),
      prefix=tuple(_tokens('prefix', self.prefix, vocabulary)) if self.prefix else (),
      max_new_tokens=max_new_tokens,
      num_answers=self.num_answers,
    )

  def _strategy(self, eos_id):
    if self.num_beams > 1:
      return search.BeamSearch(
        beams=self.num_beams,
        alpha=self.alpha,
        length_penalty=self.length_penalty,
        num_groups=self.num_beam_groups,
        diversity=self.diversity_penalty,
        eos_id=eos_id,
      )
    filters = []
    if self.top_k:
      filters.append(logits.TopK(self.top_k))
    if self.top_p < 1:
      filters.append(logits.TopP(self.top_p))
    if self.min_p > 0:
      filters.append(logits.MinP(self.min_p))
    return sampling.Sampling(
      temperature=self.temperature,
      filters=tuple(filters),
      samples=self.num_answers,
      seed=self.seed,
      eos_id=eos_id,
    )

  def _transforms(self, vocabulary, max_new_tokens):
    if self.repetition_penalty != 1:
      yield logits.RepetitionPenalty(self.repetition_penalty)
    if self.no_repeat_ngram_size:
      yield logits.NoRepeatNgram(self.no_repeat_ngram_size)
    if self.banned:
      yield logits.BannedTokens(tuple(_tokens('banned', each, vocabulary) for each in self.banned))
    if self.min_new_tokens:
      yield logits.MinNewTokens(self.min_new_tokens)
    if self.allowed is not None:
      answers = tuple(
        (*_tokens('allowed', each, vocabulary), vocabulary.eos_id) for each in self.allowed
      )
      longest = max(answers, key=len)
      if len(longest) > max_new_tokens:
        text = self.allowed[answers.index(longest)]
        raise errors.UserError(
          f'allowed={text!r} is {len(longest)} tokens, but answers have at most {max_new_tokens}: set max_new_tokens'
        )
      yield logits.AllowedAnswers(answers)
    if self.forced:
      tokens = {place: _tokens('forced', each, vocabulary) for place, each in self.forced.items()}
      for place, ids in tokens.items():
        if len(ids) != 1:
          raise errors.UserError(
            f'forced={self.forced[place]!r} at position {place} is {len(ids)} tokens, {list(ids)}: force each at its own'
          )
      yield logits.ForcedTokens(tuple((place, ids[0]) for place, ids in tokens.items()))
    yield from self.transforms


@dataclasses.dataclass(frozen=True)
class Decoder:
  """A `DecodingConfig` in tokens; `decode` is a function for jit.

  Attributes:
    strategy: see `loop.decode`.
    transforms: likewise.
    prefix: token ids with which all answers begin.
    max_new_tokens: the most tokens, without those of a prefix.
    num_answers: answers to each input that are returned.
  """

  strategy: loop.Strategy
  transforms: tuple[Callable, ...]
  prefix: tuple[int, ...]
  max_new_tokens: int
  num_answers: int

  def decode(self, config, params, inputs, row_numbers, prefix=None, seeds=None) -> loop.Decoded:
    """Decodes; see `loop.decode` for the arguments. A prefix of the rows comes after that of all."""
    common = jnp.array(self.prefix, jnp.int32)
    common = jnp.broadcast_to(common, (inputs.shape[0], len(self.prefix)))
    prefix = common if prefix is None else jnp.concatenate([common, prefix], axis=1)
    decoded = loop.decode(
      config,
      params,
      inputs,
      self.strategy,
      max_length=prefix.shape[1] + self.max_new_tokens,
      transforms=self.transforms,
      prefix=prefix,
      row_numbers=row_numbers,
      seeds=seeds,
    )
    return loop.Decoded(
      *(x[:, : self.num_answers] for x in (decoded.tokens, decoded.scores, decoded.token_scores))
    )


@dataclasses.dataclass(frozen=True)
class TokenIds:
  """What `DecodingConfig.resolve` asks of a vocabulary, where tokens are no text.

  Attributes:
    vocab_size: number of ids.
    eos_id: that which ends an answer; -1 for none.
  """

  vocab_size: int
  eos_id: int = -1

  def encode(self, text):
    """Raises UserError."""
    raise errors.UserError(f'there is no vocabulary for {text!r} here: give token ids')


def _tokens(name, value, vocabulary):
  """Token ids of a text, an id, or several ids."""
  if isinstance(value, str):
    ids = tuple(vocabulary.encode(value))
    if not ids:
      raise errors.UserError(f'{name}={value!r} has no tokens')
    return ids
  ids = (value,) if isinstance(value, int) else tuple(value)
  if not ids or not all(
    isinstance(each, int) and 0 <= each < vocabulary.vocab_size for each in ids
  ):
    raise errors.UserError(
      f'{name}={value!r} is no text and no token ids, which are 0 to {vocabulary.vocab_size - 1}'
    )
  return ids
