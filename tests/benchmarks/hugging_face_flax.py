"""Hugging Face's Flax T5, see `peers.py`."""

import functools

import jax
import jax.numpy as jnp
import optax
import peers
import transformers

_clip = jnp.clip


def _clip_with_old_names(a, a_min=None, a_max=None):
  """Transformers 4.57 calls it by names that jax 0.10 no longer has."""
  return _clip(a, a_min, a_max)


jnp.clip = _clip_with_old_names


def train(config, steps):
  model = transformers.FlaxT5ForConditionalGeneration(config, seed=0)
  optimizer = optax.adafactor(1e-3)
  inputs = jnp.array(peers.tokens(peers.INPUTS_LENGTH))
  targets = jnp.array(peers.tokens(peers.TARGETS_LENGTH))
  decoder_inputs = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]

  def loss_of(params):
    logits = model(input_ids=inputs, decoder_input_ids=decoder_inputs, params=params).logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def updated(params, opt_state):
    loss, gradient = jax.value_and_grad(loss_of)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  params = jax.tree.map(jnp.array, model.params)
  state = [params, optimizer.init(params)]

  def step():
    *state[:], loss = updated(*state)
    jax.block_until_ready(state)
    return loss

  return peers.train_figures(step, steps)


def decode(config, batches):
  model = transformers.FlaxT5ForConditionalGeneration(config, seed=0)
  inputs = jnp.array(peers.tokens(peers.PROMPT_LENGTH))

  @functools.partial(jax.jit, static_argnums=2)
  def generate(params, inputs, num_beams):
    return model.generate(
      inputs,
      attention_mask=jnp.ones_like(inputs),
      params=params,
      num_beams=num_beams,
      do_sample=False,
      max_new_tokens=peers.NEW_TOKENS,
      min_new_tokens=peers.NEW_TOKENS,
    ).sequences

  return peers.decode_figures(
    lambda num_beams: generate(model.params, inputs, num_beams).block_until_ready(), batches
  )


if __name__ == '__main__':
  peers.main(train, decode)
