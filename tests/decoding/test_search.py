"""Beam search against T5X's, Hugging Face's, and against trying every answer."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import tiny

from t5x_lite.checkpoints import huggingface, layout
from t5x_lite.decoding import logits, loop, sampling, search
from t5x_lite.models import architectures

EOS = loop.EOS_ID


# --- Against the originals ---


@pytest.mark.parametrize(
  'name, num_beams, alpha',
  [
    ('beam1_alpha0.6', 1, 0.6),
    ('beam4_alpha0.6', 4, 0.6),
    ('beam4_alpha0.0', 4, 0.0),
    ('beam8_alpha1.0', 8, 1.0),
  ],
)
def test_beams_are_those_of_t5x(of_t5x, name, num_beams, alpha):
  config, params, expected = of_t5x
  inputs = np.array(expected['encoder_input_tokens'], np.int32)
  strategy = search.BeamSearch(num_beams, alpha)
  decoded = tiny.decode(config, params, inputs, strategy, expected['max_decode_len'])
  # T5X has the best last, and a score of -1e7 where there is no answer.
  sequences, scores = (np.array(expected[name][key])[:, ::-1] for key in ('sequences', 'scores'))
  scores = np.where(scores > -1e6, scores, -np.inf)
  # jax 0.10 comes within 6e-7, 0.12, whose functions are rounded otherwise, within 4.7e-6.
  np.testing.assert_allclose(decoded.scores, scores, rtol=5e-6)
  # The last beam of the last row, cut at the most tokens, is one of two whose scores differ in
  # their last bit: -18.230854 and -18.230856. Their place depends on how a product is rounded.
  is_tie = np.zeros(scores.shape, bool)
  if num_beams == 4:
    is_tie[5, 3] = True
  np.testing.assert_array_equal(decoded.tokens[~is_tie], sequences[~is_tie])


@pytest.fixture(scope='module', params=['t5_1_0', 't5_1_1'])
def of_hugging_face(shared_data, request):
  folder = shared_data / 'golden' / 'hf_tiny' / request.param
  weights = huggingface.open_folder(folder)
  config = dataclasses.replace(weights.model, dtype='float32', scan_layers=False)
  params = layout.unflatten({name: weights.read(name) for name in weights.shapes})
  with np.load(folder / 'expected.npz') as expected:
    inputs = expected['input_ids'].astype(np.int32)
  return config, params, inputs, json.loads((folder / 'generation.json').read_text())


TRANSFORMS = {
  'repetition_penalty': logits.RepetitionPenalty,
  'no_repeat_ngram_size': logits.NoRepeatNgram,
}


@pytest.mark.parametrize(
  'name',
  [
    'greedy',
    'greedy_repetition_penalty_1.5',
    'greedy_no_repeat_ngram_2',
    'beam4_length_penalty_1.0',
    'beam4_no_repeat_ngram_2',
  ],
)
def test_generations_are_those_of_hugging_face(of_hugging_face, name):
  config, params, inputs, generations = of_hugging_face
  assert len(generations) == 5  # All that there are.
  options = generations[name]['options']
  transforms = [make(options[key]) for key, make in TRANSFORMS.items() if key in options]
  num_beams = options['num_beams']
  strategy = sampling.Sampling()
  if num_beams > 1:
    strategy = search.BeamSearch(num_beams, options.get('length_penalty', 1.0), 'length')
  decoded = tiny.decode(config, params, inputs, strategy, 30, transforms=transforms)
  num_answers = options.get('num_return_sequences', 1)
  tokens = decoded.tokens[:, :num_answers].reshape(-1, 30)
  # Theirs begin with the decoder's start token, and after the end beams have more of EOS.
  sequences = np.array(generations[name]['sequences'])[:, 1:]
  has_ended = np.cumsum(sequences == EOS, axis=1) - (sequences == EOS) > 0
  expected = np.where(has_ended, 0, sequences)
  np.testing.assert_array_equal(tokens[:, : expected.shape[1]], expected)
  assert not tokens[:, expected.shape[1] :].any()
  if generations[name]['sequences_scores'] is not None:
    scores = decoded.scores[:, :num_answers].reshape(-1)
    np.testing.assert_allclose(scores, generations[name]['sequences_scores'], rtol=3e-6)


# --- Against trying every answer ---

VOCAB_SIZE, MAX_LENGTH = 6, 3
SMALL = tiny.config(vocab_size=VOCAB_SIZE, scan_layers=False)
INPUTS = np.array([[2, 4, 1], [5, 3, 1]], np.int32)


def every_answer():
  """All answers: those that end in EOS, and those that are cut."""
  others = [token for token in range(VOCAB_SIZE) if token != EOS]
  for length in range(MAX_LENGTH):
    for tokens in itertools.product(others, repeat=length):
      yield (*tokens, EOS)
  yield from itertools.product(others, repeat=MAX_LENGTH)


def log_probs_of_every_answer(params, inputs):
  """{answer: log-probability}, of whole sequences without a cache."""
  answers = list(every_answer())
  tokens = np.zeros((len(answers), MAX_LENGTH), np.int32)
  for row, answer in zip(tokens, answers, strict=True):
    row[: len(answer)] = answer
  batch = {
    'encoder_input_tokens': np.tile(inputs, (len(answers), 1)),
    'decoder_input_tokens': np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
    'decoder_target_tokens': np.ones_like(tokens),
  }
  found = jax.nn.log_softmax(architectures.create(SMALL).apply({'params': params}, batch))
  return {
    answer: float(sum(row[i, token] for i, token in enumerate(answer)))
    for answer, row in zip(answers, np.asarray(found), strict=True)
  }


@pytest.mark.slow
def test_with_beams_for_all_beginnings_the_answers_are_the_best_there_are():
  params = tiny.params(SMALL)
  num_beams = (VOCAB_SIZE - 1) ** MAX_LENGTH
  log_probs = [log_probs_of_every_answer(params, inputs) for inputs in INPUTS]
  for penalty, alpha in (('brevity', 0.6), ('length', 1.0), ('brevity', 0.0)):
    strategy = search.BeamSearch(num_beams, alpha, penalty)
    decoded = tiny.decode(SMALL, params, INPUTS, strategy, MAX_LENGTH)
    for row, of_answers in enumerate(log_probs):
      scored = []
      for answer, log_prob in of_answers.items():
        length = len(answer)
        base = (5 + length) / 6 if penalty == 'brevity' else length
        # T5X returns answers that are cut only where there are no others.
        if answer[-1] == EOS or penalty == 'length':
          scored.append((log_prob / base**alpha, answer))
      scored.sort(reverse=True)
      for i, (score, answer) in enumerate(scored[:20]):
        assert decoded.scores[row, i] == pytest.approx(score, rel=1e-5)
        tokens = decoded.tokens[row, i]
        assert tuple(tokens[: len(answer)]) == answer and not tokens[len(answer) :].any()


# --- What else is to hold ---


@pytest.mark.parametrize('vocab_size', [7, 128, 1000, 32128])
@pytest.mark.parametrize('k', [1, 2, 7])
def test_the_highest_values_are_found_block_by_block_as_by_sorting(vocab_size, k):
  rng = np.random.default_rng(0)
  values = rng.normal(size=(2, 3, vocab_size)).astype(np.float32)
  values[0] = np.round(values[0])  # Many are equal.
  values[1, 0, 4:] = -np.inf
  for found, expected in zip(
    jax.jit(search.top_k, static_argnums=1)(values, k), jax.lax.top_k(values, k), strict=True
  ):
    np.testing.assert_array_equal(found, expected)


def test_of_one_beam_the_tokens_are_the_greedy_ones():
  config = tiny.config(num_heads=4)
  params = tiny.params(config)
  inputs = np.array([[5, 9, 1, 0], [7, 1, 0, 0], [0, 0, 0, 0]], np.int32)
  greedy = tiny.decode(config, params, inputs, sampling.Sampling(), 10)
  beam = tiny.decode(config, params, inputs, search.BeamSearch(1, 0.0), 10)
  np.testing.assert_array_equal(greedy.tokens, beam.tokens)
  np.testing.assert_allclose(greedy.scores[:2], beam.scores[:2], rtol=1e-5)
  np.testing.assert_allclose(greedy.token_scores, beam.token_scores, rtol=1e-5, atol=1e-6)


def test_a_group_avoids_the_tokens_of_those_before_it():
  config = tiny.config(num_heads=4)
  params = tiny.params(config)
  inputs = np.array([[5, 9, 1, 0], [7, 1, 0, 0]], np.int32)
  alike = tiny.decode(config, params, inputs, search.BeamSearch(4, 0.0, num_groups=2), 6)
  # Without a penalty both groups find the same.
  pairs = alike.tokens.reshape(2, 2, 2, 6)
  np.testing.assert_array_equal(pairs[:, :, 0], pairs[:, :, 1])
  diverse = tiny.decode(
    config, params, inputs, search.BeamSearch(4, 0.0, num_groups=2, diversity=100.0), 6
  )
  for answers in diverse.tokens:
    first = [tokens[0] for tokens in answers]
    assert len(set(first)) == 2
    assert len({tuple(tokens) for tokens in answers}) == 4


def test_answers_that_are_not_there_are_empty_and_last():
  config = tiny.config()
  answers = logits.AllowedAnswers(((4, EOS), (5, 6, EOS)))
  decoded = tiny.decode(
    config,
    tiny.params(config),
    np.array([[3, EOS], [0, 0]], np.int32),
    search.BeamSearch(4, 0.0),
    5,
    transforms=[answers],
  )
  assert {tuple(tokens) for tokens in decoded.tokens[0, :2]} == {
    (4, EOS, 0, 0, 0),
    (5, 6, EOS, 0, 0),
  }
  assert np.isfinite(decoded.scores[0, :2]).all() and np.isneginf(decoded.scores[0, 2:]).all()
  assert np.isneginf(decoded.scores[1]).all()
  assert not decoded.tokens[0, 2:].any() and not decoded.tokens[1].any()
