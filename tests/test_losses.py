"""The chunked cross-entropy against the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import errors, losses

BATCH, EMBED, VOCAB = 2, 5, 11


def plain_sums(hidden, kernel, targets, weights, label_smoothing, z_loss):
  """T5X's formula with whole logits and one-hot targets."""
  logits = hidden @ kernel
  vocab_size = logits.shape[-1]
  confidence = 1 - label_smoothing
  share = label_smoothing / (vocab_size - 1)
  soft = jnp.where(jax.nn.one_hot(targets, vocab_size) > 0, confidence, share)
  log_z = jnp.log(jnp.sum(jnp.exp(logits), -1))
  entropy = -(confidence * np.log(confidence) + (vocab_size - 1) * share * np.log(share + 1e-20))
  penalty = z_loss * log_z**2
  loss = -jnp.sum(soft * (logits - log_z[..., None]), -1) - entropy + penalty
  return {
    'loss': jnp.sum(loss * weights),
    'z_loss': jnp.sum(penalty * weights),
    'correct': jnp.sum((logits.argmax(-1) == targets) * weights),
    'weight': jnp.sum(weights),
  }


def problem(length):
  rng = np.random.default_rng(length)
  hidden = jnp.asarray(rng.normal(size=(BATCH, length, EMBED)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(EMBED, VOCAB)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, VOCAB, (BATCH, length)), jnp.int32)
  weights = jnp.asarray(rng.random((BATCH, length)) < 0.7, jnp.int32)
  return hidden, kernel, targets, weights


@pytest.mark.parametrize(
  'length, num_chunks, label_smoothing, z_loss',
  [
    (8, 4, 0.0, 0.0),
    (7, 3, 0.1, 1e-2),
    (7, 16, 0.1, 0.0),
    (1, 16, 0.0, 1e-2),
    (10, 6, 0.1, 1e-2),
    (9, 1, 0.1, 1e-2),
  ],
)
def test_chunks_sum_to_the_plain_formula_in_value_and_gradient(
  length, num_chunks, label_smoothing, z_loss
):
  hidden, kernel, targets, weights = problem(length)
  config = losses.LossConfig(z_loss, label_smoothing, num_chunks=num_chunks)

  def chunked(hidden, kernel):
    sums = losses.chunked_cross_entropy(lambda h: h @ kernel, hidden, targets, weights, config)
    return sums['loss'], sums

  def plain(hidden, kernel):
    sums = plain_sums(hidden, kernel, targets, weights, label_smoothing, z_loss)
    return sums['loss'], sums

  gradients, sums = jax.jit(jax.grad(chunked, (0, 1), has_aux=True))(hidden, kernel)
  expected_gradients, expected = jax.jit(jax.grad(plain, (0, 1), has_aux=True))(hidden, kernel)
  for name in expected:
    np.testing.assert_allclose(sums[name], expected[name], rtol=2e-6, atol=1e-6, err_msg=name)
  for gradient, other in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=2e-6)


def test_tokens_without_weight_neither_cost_nor_teach():
  hidden, kernel, targets, _ = problem(6)

  def loss(hidden):
    weights = jnp.zeros((BATCH, 6))
    sums = losses.chunked_cross_entropy(
      lambda h: h @ kernel, hidden, targets, weights, losses.LossConfig(label_smoothing=0.1)
    )
    return sums['loss'], sums

  gradient, sums = jax.jit(jax.grad(loss, has_aux=True))(hidden)
  assert {name: float(x) for name, x in sums.items()} == dict.fromkeys(sums, 0.0)
  np.testing.assert_array_equal(gradient, 0)


def test_cross_entropy_by_hand():
  # softmax = (1/2, 1/4, 1/4) with Z = 4
  logits = jnp.log(jnp.array([[2.0, 1.0, 1.0]]))
  loss, penalty = losses.cross_entropy(logits, jnp.array([0]), z_loss=0.5)
  np.testing.assert_allclose(penalty, 0.5 * np.log(4) ** 2, rtol=1e-6)
  np.testing.assert_allclose(loss, np.log(2) + 0.5 * np.log(4) ** 2, rtol=1e-6)


def test_a_perfect_smoothed_prediction_costs_nothing():
  smoothed = jnp.full((1, VOCAB), 0.1 / (VOCAB - 1)).at[0, 3].set(0.9)
  loss, _ = losses.cross_entropy(jnp.log(smoothed), jnp.array([3]), label_smoothing=0.1)
  np.testing.assert_allclose(loss, 0, atol=1e-6)


def equations_in(jaxpr):
  """Yields every equation of a jaxpr and of those inside it."""
  for equation in jaxpr.eqns:
    yield equation
    for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, 'jaxpr')):
      inner = getattr(parameter, 'jaxpr', parameter)
      if hasattr(inner, 'eqns'):
        yield from equations_in(inner)


def equations_of_the_gradient(num_chunks):
  hidden, kernel, targets, weights = problem(12)

  def loss(hidden, kernel):
    config = losses.LossConfig(num_chunks=num_chunks)
    logits_of = lambda h: h @ kernel  # noqa: E731
    return losses.chunked_cross_entropy(logits_of, hidden, targets, weights, config)['loss']

  return equations_in(jax.make_jaxpr(jax.grad(loss, (0, 1)))(hidden, kernel).jaxpr)


def test_neither_the_loss_nor_its_gradient_holds_the_logits_of_all_tokens():
  def largest(num_chunks):
    shapes = [x.aval.shape for e in equations_of_the_gradient(num_chunks) for x in e.outvars]
    return max(np.prod(shape) for shape in shapes if shape and shape[-1] == VOCAB)

  assert largest(1) >= BATCH * 12 * VOCAB  # The search does find them.
  assert largest(6) <= max(BATCH * 2 * VOCAB, EMBED * VOCAB)


def test_the_gradient_makes_the_logits_of_a_chunk_once():
  names = [equation.primitive.name for equation in equations_of_the_gradient(6)]
  assert names.count('dot_general') == 3  # The logits, and the gradients of both their factors.


@pytest.mark.parametrize(
  'values, message',
  [
    ({'z_loss': -1.0}, 'z_loss=-1.0'),
    ({'label_smoothing': 1.0}, 'label_smoothing=1.0'),
    ({'num_chunks': 0}, 'num_chunks=0'),
    ({'normalization': 'mean'}, "normalization='mean' is neither 'tokens' nor 'sum'"),
    ({'normalization': 0}, 'normalization=0 is neither'),
  ],
)
def test_a_bad_loss_config_is_refused(values, message):
  with pytest.raises(errors.UserError, match=message):
    losses.LossConfig(**values)
