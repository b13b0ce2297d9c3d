"""How probable a model finds given targets."""

import jax

from t5x_lite import losses


def log_probs(model, params, batch, num_chunks=16):
  """Returns float32 [batch]: the summed log-probability of each row's targets, in nats.

  Args:
    model: from `models.architectures.create`.
    params: its parameters.
    batch: dict of features, see its `hidden`. Positions of loss weight 0 do not count.
    num_chunks: see `losses.LossConfig`.
  """
  variables = {'params': params}
  config = losses.LossConfig(z_loss=0.0, num_chunks=num_chunks)

  def logits_of(hidden):
    return model.apply(variables, hidden, method='logits')

  def row_sums(hidden, targets, weights):
    return losses.chunked_cross_entropy(
      logits_of, hidden[None], targets[None], weights[None], config
    )

  hidden = model.apply(variables, batch, method='hidden')
  targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
  return -jax.vmap(row_sums)(hidden, targets, weights)['loss']
