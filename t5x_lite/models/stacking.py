"""The two forms of a stack's parameters: one subtree per layer, or all layers stacked.

Unrolled: `encoder/layers_0/...`, `encoder/layers_1/...`. Scanned: `encoder/layers/...`, every
array with a leading layer axis.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

_NUMBERED = re.compile(r'layers_(\d+)$')
STACKED = 'layers'


def is_stacked(path):
  """Whether the names of a tree path lead through a stacked subtree."""
  return STACKED in path


def stack_layers(tree):
  """Returns the nested dict `tree` with every family of `layers_N` stacked into `layers`."""
  if not isinstance(tree, dict):
    return tree
  numbered = {}
  result = {}
  for name, subtree in tree.items():
    match = _NUMBERED.match(name)
    if match:
      numbered[int(match.group(1))] = subtree
    else:
      result[name] = stack_layers(subtree)
  if numbered:
    in_order = [numbered[i] for i in range(len(numbered))]
    result[STACKED] = jax.tree.map(lambda *leaves: _stack(leaves), *in_order)
  return result


def unstack_layers(tree):
  """Returns the nested dict `tree` with every `layers` split into `layers_N`."""
  if not isinstance(tree, dict):
    return tree
  result = {}
  for name, subtree in tree.items():
    if name == STACKED:
      for i in range(jax.tree.leaves(subtree)[0].shape[0]):
        result[f'{STACKED}_{i}'] = jax.tree.map(lambda leaf, i=i: leaf[i], subtree)
    else:
      result[name] = unstack_layers(subtree)
  return result


def _stack(leaves):
  return np.stack(leaves) if isinstance(leaves[0], np.ndarray) else jnp.stack(leaves)
