"""A stack of layers, and the two forms of its parameters: a subtree per layer, or all stacked.

Unrolled: `encoder/layers_0/...`, `encoder/layers_1/...`. Scanned: `encoder/layers/...`, every
array with a leading layer axis.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.models.config import REMAT_POLICIES

_NUMBERED = re.compile(r'layers_(\d+)$')
STACKED = 'layers'


def build(layer_class, config, num_layers):
  """Returns the scanned module or the list of modules that `run` runs."""
  if config.remat_policy != 'none':
    kept = set(REMAT_POLICIES.get(config.remat_policy, config.remat_policy))
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
      names_which_can_be_saved=kept.difference(config.remat_offload),
      names_which_can_be_offloaded=config.remat_offload,
      offload_src='device',
      offload_dst='pinned_host',
    )
    layer_class = nn.remat(layer_class, policy=policy, prevent_cse=not config.scan_layers)
  if not config.scan_layers:
    return [layer_class(config) for _ in range(num_layers)]
  scanned = nn.scan(
    layer_class,
    variable_axes={'params': 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=nn.broadcast,
    length=num_layers,
    metadata_params={nn.PARTITION_NAME: STACKED},
  )
  return scanned(config)


def run(stack, x, *shared):
  """Passes x through the stack; every layer gets the same `shared` arguments."""
  if isinstance(stack, nn.Module):
    x, _ = stack(x, *shared)
    return x
  for layer in stack:
    x, _ = layer(x, *shared)
  return x


def is_stacked(path):
  """Whether the names of a tree path lead through a stacked subtree."""
  return STACKED in path


def layer_names(name, num_layers):
  """Returns what a stacked parameter's layers are called where they are apart."""
  stack, _, rest = name.partition(f'{STACKED}/')
  return [f'{stack}{STACKED}_{i}/{rest}' for i in range(num_layers)]


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
