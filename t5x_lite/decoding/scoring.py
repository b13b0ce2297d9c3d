"""How probable a model finds given targets, and how it encodes inputs."""

import jax
import jax.numpy as jnp

from t5x_lite import losses


def row_sums(model, params, batch):
  """Sums the loss of the targets row by row.

  Args:
    model: from `models.architectures.create`.
    params: its parameters.
    batch: dict of features, see its `hidden`. Positions of loss weight 0 do not count.

  Returns:
    The sums of `losses.chunked_cross_entropy` with its default z-loss, float32 [batch] each.
  """
  variables = {'params': params}

  def logits_of(hidden):
    return model.apply(variables, hidden, method='logits')

  def of_row(hidden, targets, weights):
    return losses.chunked_cross_entropy(
      logits_of, hidden[None], targets[None], weights[None], losses.LossConfig()
    )

  hidden = model.apply(variables, batch, method='hidden')
  targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
  return jax.vmap(of_row)(hidden, targets, weights)


def log_probs(sums):
  """Returns [batch]: the log-probabilities of the rows' targets, in nats, of their `row_sums`."""
  return sums['z_loss'] - sums['loss']


def token_log_probs(model, params, batch):
  """Scores the targets token by token.

  Args:
    model, params, batch: as for `row_sums`.

  Returns:
    (the log-probability of each token in nats, float32 [batch, targets_length]; the batch's loss weights, which say
    where the targets are).
  """
  variables = {'params': params}

  def of_position(position):
    hidden, targets = position  # [batch, embed], [batch]
    return -losses.cross_entropy(model.apply(variables, hidden, method='logits'), targets)[0]

  hidden = model.apply(variables, batch, method='hidden')
  by_position = (jnp.moveaxis(hidden, 1, 0), batch['decoder_target_tokens'].T)
  # A few positions at a time, since the logits of all would be large.
  log_probs_of = jax.lax.map(of_position, by_position, batch_size=8)
  return log_probs_of.T, batch['decoder_loss_weights']


def encode(model, params, inputs, mean: bool):
  """Returns the encoder's states of some inputs.

  Args:
    model: an encoder-decoder.
    params: its parameters.
    inputs: int32 [batch, inputs_length]; 0 is padding.
    mean: whether to take the mean over the tokens of each input.

  Returns:
    float32 [batch, embed], or [batch, inputs_length, embed], 0 where there is padding.
  """
  states = model.apply({'params': params}, inputs, method='encode').astype(jnp.float32)
  states = states[:, states.shape[1] - inputs.shape[1] :]  # Without those of a soft prompt.
  is_token = (inputs > 0).astype(jnp.float32)
  states *= is_token[..., None]
  if not mean:
    return states
  return jnp.sum(states, axis=1) / jnp.maximum(jnp.sum(is_token, axis=1, keepdims=True), 1.0)
