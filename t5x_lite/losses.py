"""Cross-entropy over the vocabulary, in chunks of tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from t5x_lite import errors


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What the training loss is made of.

  Attributes:
    z_loss: weight of log(Z)**2, which keeps the softmax normaliser Z near one.
    label_smoothing: probability taken from the target and spread over the other tokens.
    normalization: what the summed loss is divided by: 'tokens', the weights of the batch;
      'sum', nothing, as T5 was trained; or a number, as T5 checkpoints of Mesh-TensorFlow
      want it (233472).
    num_chunks: parts into which the target length is cut, so that the logits of one part
      exist at a time.
  """

  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  normalization: str | float = 'tokens'
  num_chunks: int = 16

  def __post_init__(self):
    if self.z_loss < 0:
      raise errors.UserError(f'LossConfig.z_loss={self.z_loss} must not be negative')
    if not 0 <= self.label_smoothing < 1:
      raise errors.UserError(f'LossConfig.label_smoothing={self.label_smoothing} is not in [0, 1)')
    if self.num_chunks < 1:
      raise errors.UserError(f'LossConfig.num_chunks={self.num_chunks} must be at least 1')
    if self.normalization in ('tokens', 'sum'):
      return
    if isinstance(self.normalization, str) or not self.normalization > 0:
      raise errors.UserError(
        f"LossConfig.normalization={self.normalization!r} is neither 'tokens' nor 'sum' nor a "
        'positive number'
      )


def cross_entropy(logits, targets, *, label_smoothing=0.0, z_loss=0.0):
  """Softmax cross-entropy with T5X's label smoothing and z-loss.

  With smoothing, the entropy of the smoothed target is subtracted, so that a perfect
  prediction costs nothing.

  Args:
    logits: float32 [..., vocab].
    targets: int [...].
    label_smoothing: see `LossConfig`.
    z_loss: see `LossConfig`.

  Returns:
    (loss with z-loss, the z-loss in it), both float32 [...], in nats.
  """
  vocab_size = logits.shape[-1]
  log_z = jax.nn.logsumexp(logits, axis=-1)
  target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  loss = log_z - target_logit
  if label_smoothing:
    confidence = 1.0 - label_smoothing
    share = label_smoothing / (vocab_size - 1)
    others = vocab_size * log_z - jnp.sum(logits, axis=-1) - loss
    entropy = -(confidence * jnp.log(confidence) + label_smoothing * jnp.log(share + 1e-20))
    loss = confidence * loss + share * others - entropy
  z_penalty = z_loss * jnp.square(log_z)
  return loss + z_penalty, z_penalty


def chunked_cross_entropy(logits_of, hidden, targets, weights, config):
  """Sums the weighted cross-entropy without ever holding the logits of all tokens.

  The length is cut into `config.num_chunks` parts; each makes its logits, its loss and, when a
  gradient is wanted, the gradient of that, and forgets the logits, which are so made only once.
  The batch axis stays whole, since it is the one that is sharded.

  Args:
    logits_of: function of hidden states [batch, n, embed]; returns float32 [batch, n, vocab].
    hidden: [batch, length, embed].
    targets: int [batch, length].
    weights: [batch, length]; zero for padding.
    config: `LossConfig`.

  Returns:
    dict of float32 sums over all tokens: 'loss' (with z-loss), 'z_loss', 'correct' (targets
    with the highest logit), 'weight'. Only 'loss' has a gradient, in the hidden states and in
    what `logits_of` closes over.
  """
  length = hidden.shape[1]
  chunk_length = -(-length // min(config.num_chunks, length))
  num_chunks = -(-length // chunk_length)

  def cut(x):
    padding = [(0, 0)] * x.ndim
    padding[1] = (0, num_chunks * chunk_length - length)
    x = jnp.pad(x, padding).reshape(x.shape[0], num_chunks, chunk_length, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  hidden = cut(hidden)
  logits_of, params = jax.closure_convert(logits_of, hidden[0])

  def chunk_sums(params, hidden, targets, weights):
    logits = logits_of(hidden, *params)
    loss, z_penalty = cross_entropy(
      logits, targets, label_smoothing=config.label_smoothing, z_loss=config.z_loss
    )
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    correct = target_logit == jnp.max(logits, axis=-1)
    values = {'loss': loss, 'z_loss': z_penalty, 'correct': correct, 'weight': 1.0}
    return {name: jnp.sum(value * weights) for name, value in values.items()}

  labels = (cut(targets), cut(weights.astype(jnp.float32)))
  sums = _sum_over_chunks(chunk_sums, params, hidden, labels)
  return {name: x if name == 'loss' else jax.lax.stop_gradient(x) for name, x in sums.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_over_chunks(chunk_sums, params, hidden, labels):
  """Sums `chunk_sums(params, hidden[i], *labels[i])` over i; only its 'loss' has a gradient."""

  def add(sums, chunk):
    hidden, labels = chunk
    return jax.tree.map(jnp.add, sums, chunk_sums(params, hidden, *labels)), None

  return jax.lax.scan(add, _zero_sums(), (hidden, labels))[0]


def _zero_sums():
  return dict.fromkeys(('loss', 'z_loss', 'correct', 'weight'), jnp.float32(0))


def _sum_over_chunks_forward(chunk_sums, params, hidden, labels):
  def loss(params, hidden, labels):
    sums = chunk_sums(params, hidden, *labels)
    return sums['loss'], sums

  def add(total, chunk):
    (params_grad, hidden_grad), sums = jax.grad(loss, (0, 1), has_aux=True)(params, *chunk)
    return jax.tree.map(jnp.add, total, (sums, params_grad)), hidden_grad

  zeros = (_zero_sums(), jax.tree.map(jnp.zeros_like, params))
  (sums, params_grad), hidden_grad = jax.lax.scan(add, zeros, (hidden, labels))
  return sums, (params_grad, hidden_grad)


def _sum_over_chunks_backward(chunk_sums, grads, cotangents):
  params_grad, hidden_grad = jax.tree.map(
    lambda grad: (grad * cotangents['loss']).astype(grad.dtype), grads
  )
  return params_grad, hidden_grad, None


_sum_over_chunks.defvjp(_sum_over_chunks_forward, _sum_over_chunks_backward)
