"""How probable a model finds given targets."""

import jax

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
