"""Measures Hugging Face's Flax T5, for decoding.py: hugging_face_flax.py MODEL BATCHES."""

import sys

import jax
import jax.numpy as jnp
import peers
import transformers

_clip = jnp.clip


def _clip_with_old_names(a, a_min=None, a_max=None):
  """Transformers 4.57 calls it by names that jax 0.10 no longer has."""
  return _clip(a, a_min, a_max)


jnp.clip = _clip_with_old_names


def main(model, batches):
  flax_model = transformers.FlaxT5ForConditionalGeneration(peers.config(model), seed=0)
  inputs = jnp.array(peers.inputs())
  figures = {}
  for way, num_beams in peers.NUM_BEAMS.items():

    @jax.jit
    def generate(params, inputs, num_beams=num_beams):
      return flax_model.generate(
        inputs,
        attention_mask=jnp.ones_like(inputs),
        params=params,
        num_beams=num_beams,
        do_sample=False,
        max_new_tokens=peers.NEW_TOKENS,
        min_new_tokens=peers.NEW_TOKENS,
      ).sequences

    figures[way] = peers.tokens_per_second(
      lambda generate=generate: generate(flax_model.params, inputs).block_until_ready(), batches
    )
  peers.tell(figures)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]))
