"""One step of training, and of evaluating the loss, as pure functions."""

import functools

import jax
import jax.numpy as jnp
import optax

from t5x_lite import losses, sharding
from t5x_lite.models import selection
from t5x_lite.training import guard as update_guard


def loss_sums(model, params, batch, loss_config, dropout_key=None):
  """Returns the sums of `losses.chunked_cross_entropy` over a batch.

  Args:
    model: from `models.architectures.create`.
    params: its parameters.
    batch: dict of features, see its `hidden`.
    loss_config: `LossConfig`.
    dropout_key: random key; None for no dropout.
  """
  variables = {'params': params}
  rngs = None if dropout_key is None else {'dropout': dropout_key}
  hidden = model.apply(variables, batch, method='hidden', rngs=rngs)

  def logits_of(hidden):
    return model.apply(variables, hidden, method='logits')

  return losses.chunked_cross_entropy(
    logits_of,
    hidden,
    batch['decoder_target_tokens'],
    batch['decoder_loss_weights'],
    loss_config,
  )


def accumulate_gradients(
  model, params, batch, loss_config, dropout_key, num_microbatches, frozen=None
):
  """Returns (summed loss sums, gradient of the summed loss) over all microbatches.

  Sums are accumulated and normalised once, by the caller, so that microbatches of unequal
  token counts give the gradient of the whole batch. Each has a dropout key of its own. The
  gradient is that of `params`; `frozen` are the parameters that the model has besides.
  """

  def summed_loss(params, microbatch, key):
    if frozen:
      params = selection.join(params, frozen)
    sums = loss_sums(model, params, microbatch, loss_config, key)
    return sums['loss'], sums

  gradient = jax.grad(summed_loss, has_aux=True)
  if num_microbatches == 1:
    grads, sums = gradient(params, batch, dropout_key)
    return sums, grads

  def split(x):
    # Every device gives each microbatch some of its own rows, so nothing moves between devices.
    rows = x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:])
    return jnp.swapaxes(rows, 0, 1)

  def add(accumulated, indexed):
    index, microbatch = indexed
    key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
    grads, sums = gradient(params, microbatch, key)
    return jax.tree.map(jnp.add, accumulated, (sums, grads)), None

  microbatches = jax.tree.map(split, batch)
  shapes = jax.eval_shape(
    lambda: gradient(params, jax.tree.map(lambda x: x[0], microbatches), dropout_key)[::-1]
  )
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (sums, grads), _ = jax.lax.scan(add, zeros, (jnp.arange(num_microbatches), microbatches))
  return sums, grads


def normalizer(loss_config, weight):
  """What the summed loss is divided by; `weight` is the sum of the loss weights."""
  if loss_config.normalization == 'tokens':
    return jnp.maximum(weight, 1.0)
  return 1.0 if loss_config.normalization == 'sum' else float(loss_config.normalization)


def train_step(
  state,
  batch,
  *,
  model,
  optimizer,
  loss_config,
  schedule,
  seed,
  num_microbatches=1,
  clip_global_norm=None,
  update_shardings=None,
  guard=None,
):
  """Forward, backward, update.

  Args:
    state: `TrainState`.
    batch: dict of features.
    model: from `models.architectures.create`.
    optimizer: optax optimizer.
    loss_config: `LossConfig`.
    schedule: the learning rate as a function of the step, to report it.
    seed: of the dropout.
    num_microbatches: parts of the batch whose gradients are accumulated.
    clip_global_norm: largest norm of the whole gradient, or None.
    update_shardings: of the gradients and the trainable parameters while these are updated, where
      that is not how they are kept, see `sharding.update_shardings`; or None.
    guard: `guard.GuardConfig`, which updates to skip if the state has a guard.

  Returns:
    (new TrainState, dict of float32 scalars). 'loss' and 'z_loss' are in nats per target
    token, 'gradient_norm' is measured before clipping, and the shares are in [0, 1].
  """
  dropout_key = None
  if model.config.has_dropout:
    dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
  trainable, frozen = state.split_params()
  sums, grads = accumulate_gradients(
    model, trainable, batch, loss_config, dropout_key, num_microbatches, frozen
  )
  if update_shardings is not None:
    trainable, grads = jax.lax.with_sharding_constraint(
      (trainable, grads), (update_shardings, update_shardings)
    )
  divisor = normalizer(loss_config, sums['weight'])
  grads = jax.tree.map(lambda g: g / divisor, grads)
  gradient_norm = optax.tree.norm(grads)
  if clip_global_norm is not None:
    gradient_norm = update_guard.gradient_norm(grads)
    scale = clip_global_norm / jnp.maximum(gradient_norm, clip_global_norm)
    grads = jax.tree.map(lambda g: g * scale, grads)
  updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
  params = optax.apply_updates(trainable, updates)
  metrics = {
    **token_means(sums),
    'gradient_norm': gradient_norm,
    'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
    'target_tokens': sums['weight'],
    **token_counts(batch),
  }
  guard_state = state.guard
  if guard_state is not None:
    (params, opt_state), guard_state, counts = update_guard.apply(
      guard,
      guard_state,
      (trainable, state.opt_state),
      (params, opt_state),
      metrics['loss'],
      gradient_norm,
    )
    metrics |= counts
  new_state = state.replace(
    step=state.step + 1,
    params=selection.join(params, frozen) if frozen else params,
    opt_state=opt_state,
    guard=guard_state,
  )
  return new_state, metrics


def token_means(sums):
  """Returns loss, z-loss and accuracy per target token from their sums."""
  weight = jnp.maximum(sums['weight'], 1.0)
  return {
    'loss': sums['loss'] / weight,
    'z_loss': sums['z_loss'] / weight,
    'accuracy': sums['correct'] / weight,
  }


def token_counts(batch):
  """Returns the number of tokens and the share of padding among all positions of a batch."""
  names = ('encoder_input_tokens', 'decoder_target_tokens')
  features = [batch[name] for name in names if name in batch]
  tokens = sum(jnp.sum(tokens > 0) for tokens in features).astype(jnp.float32)
  positions = sum(x.size for x in features)
  return {'tokens': tokens, 'padding_share': (positions - tokens) / positions}


def jit_train_step(abstract_state, batch_sharding, shard_optimizer_state=False, **settings):
  """Returns the compiled form of (state, batch) -> (state, metrics), the state donated.

  Args:
    abstract_state: from `state.abstract_state`; the new state keeps its shardings.
    batch_sharding: of every feature.
    shard_optimizer_state: see `sharding.MeshConfig`.
    **settings: all other arguments of `train_step`.
  """
  shardings = jax.tree.map(lambda x: x.sharding, abstract_state)
  if shard_optimizer_state:
    trainable, _ = abstract_state.split_params()
    settings['update_shardings'] = sharding.update_shardings(trainable)
  return jax.jit(
    # Named, since a profile shows the name.
    functools.update_wrapper(functools.partial(train_step, **settings), train_step),
    in_shardings=(shardings, batch_sharding),
    out_shardings=(shardings, None),
    donate_argnums=0,
  )
