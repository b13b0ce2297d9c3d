"""What a user asks of decoding, as far as it needs no model."""

import dataclasses

import pytest
import seqio

from t5x_lite import errors
from t5x_lite.decoding import logits, options, sampling, search

BYTES = seqio.ByteVocabulary(extra_ids=100)


def resolve(**changes):
  return options.DecodingConfig(**changes).resolve(BYTES, 16)


def test_by_default_it_is_greedy():
  decoder = resolve()
  assert decoder.strategy == sampling.Sampling()
  assert decoder.transforms == () and decoder.prefix == ()
  assert (decoder.max_new_tokens, decoder.num_answers) == (16, 1)


def test_beams_and_samples_get_what_is_theirs():
  beams = resolve(num_beams=6, num_answers=2, alpha=1.0, length_penalty='length', num_beam_groups=3,
                  diversity_penalty=0.5)  # fmt: skip
  assert beams.strategy == search.BeamSearch(6, 1.0, 'length', 3, 0.5)
  assert beams.num_answers == 2
  samples = resolve(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, num_answers=3, seed=4)
  filters = (logits.TopK(5), logits.TopP(0.9), logits.MinP(0.1))
  assert samples.strategy == sampling.Sampling(0.7, filters, 3, 4)


def test_texts_become_tokens():
  def own(values, context):
    return values

  decoder = resolve(
    repetition_penalty=1.2,
    no_repeat_ngram_size=3,
    banned=['no', 7, [8, 9]],
    min_new_tokens=2,
    allowed=['yes', 'a'],
    forced={0: 'y', -1: 1},
    prefix='so ',
    transforms=[own],
  )
  ids = {text: tuple(BYTES.encode(text)) for text in ('no', 'yes', 'a', 'y', 'so ')}
  assert decoder.prefix == ids['so ']
  assert decoder.transforms == (
    logits.RepetitionPenalty(1.2),
    logits.NoRepeatNgram(3),
    logits.BannedTokens((ids['no'], (7,), (8, 9))),
    logits.MinNewTokens(2),
    logits.AllowedAnswers(((*ids['yes'], 1), (*ids['a'], 1))),
    logits.ForcedTokens(((0, ids['y'][0]), (-1, 1))),
    own,
  )
  assert hash(decoder) == hash(dataclasses.replace(decoder))  # One compiled function for each.


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'num_beams': 0}, 'num_beams=0 must be at least 1'),
    ({'temperature': -1.0}, 'temperature=-1.0 must be at least 0'),
    ({'temperature': float('nan')}, 'temperature=nan must be at least 0'),
    ({'top_p': 0.0, 'temperature': 1.0}, 'top_p=0.0 must be above 0 and at most 1'),
    ({'min_p': 1.5, 'temperature': 1.0}, 'min_p=1.5 must be from 0 to 1'),
    ({'repetition_penalty': 0.0}, 'repetition_penalty=0.0 must be above 0'),
    ({'max_new_tokens': 0}, 'max_new_tokens=0 must be at least 1, or None'),
    ({'length_penalty': 'hf'}, "length_penalty='hf' must be 'brevity' or 'length'"),
    ({'allowed': []}, r'allowed=\[\] must be one text at least'),
    ({'num_beams': 2, 'temperature': 1.0}, 'num_beams=2 and temperature=1.0 exclude each other'),
    ({'num_beams': 2, 'num_answers': 3}, 'num_answers=3 are more than num_beams=2'),
    ({'num_answers': 3}, 'num_answers=3 needs num_beams=3 or more, or a temperature above 0'),
    ({'num_beams': 4, 'num_beam_groups': 3}, 'num_beams=4 is not divisible by num_beam_groups=3'),
    ({'top_k': 5}, 'top_k=5 does nothing without a temperature above 0'),
    ({'alpha': 1.0}, 'alpha=1.0 does nothing without num_beams above 1'),
    ({'num_beams': 2, 'diversity_penalty': 1.0}, 'does nothing without num_beam_groups above 1'),
    ({'banned': [400]}, 'banned=400 is no text and no token ids, which are 0 to 358'),
    ({'banned': ['']}, "banned='' has no tokens"),
    ({'forced': {0: 'ab'}}, "forced='ab' at position 0 is 2 tokens"),
    ({'allowed': ['a long answer indeed']}, "is 21 tokens, but answers have at most 16: set max"),
  ],
)  # fmt: skip
def test_what_cannot_be_is_told(changes, message):
  with pytest.raises(errors.UserError, match=message):
    resolve(**changes)
