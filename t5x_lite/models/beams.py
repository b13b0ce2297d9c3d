"""The beams of a row, which see each other's cached keys and values, and whose are whose.

A beam that goes on from another has the tokens of that one until then. In place of copying what is cached of
them, `ancestors`, int32 [rows, beams, slots], says for each beam and slot which beam has the beam's token there.
Where each row is one beam, it is None.
"""

import jax
import jax.numpy as jnp


def first_ancestors(rows, beams, num_slots):
  """Returns the ancestors of beams that all go on from the first."""
  return None if beams == 1 else jnp.zeros((rows, beams, num_slots), jnp.int32)


def with_own_slot(ancestors, slot):
  """Returns the ancestors of beams of which each has a token of its own in a slot."""
  if ancestors is None:
    return None
  rows, beams, _ = ancestors.shape
  own = jnp.broadcast_to(jnp.arange(beams)[:, None], (rows, beams, 1))
  return jax.lax.dynamic_update_slice_in_dim(ancestors, own, slot, axis=2)


def of_parents(cache, parents):
  """Returns a model's cache for beams that go on from others of their row.

  Args:
    cache: with `ancestors`.
    parents: int32 [rows, beams], from which beam each goes on.
  """
  ancestors = jnp.take_along_axis(cache.ancestors, parents[..., None], axis=1)
  return cache.replace(ancestors=ancestors)


def mask(visible, ancestors):
  """Returns which slots the beams of a row see, for `MultiHeadAttention.attend_cached`.

  Args:
    visible: bool [rows or 1, slots], the slots that hold a token of the row.
    ancestors: see above.

  Returns:
    bool [rows, 1, beams, slots * beams], or [rows or 1, 1, 1, slots] of single beams.
  """
  if ancestors is None:
    return visible[:, None, None, :]
  rows, beams, num_slots = ancestors.shape
  is_ancestor = ancestors[..., None] == jnp.arange(beams)
  seen = is_ancestor & visible[:, None, :, None]  # [rows, beams, slots, beams]
  return seen.reshape(rows, 1, beams, num_slots * beams)
