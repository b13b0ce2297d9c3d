"""Writes checkpoints as T5X did, from parameters and squared gradients that a test knows."""

import os
import pathlib

import numpy as np
import orbax.checkpoint
import tensorstore
from flax import serialization

from t5x_lite.checkpoints import layout

# Logical axes of T5X's examples/scalable_t5/layers.py, less the layers.
_AXES = {
  ('query', 'key', 'value'): ('embed', 'heads', 'kv'),
  ('out',): ('heads', 'kv', 'embed'),
  ('wi', 'wi_0', 'wi_1'): ('embed', 'mlp'),
  ('wo',): ('mlp', 'embed'),
}
# From standard_logical_factor_rules in T5X's adafactor.py.
_ROWS = ('embed',)
_COLUMNS = ('vocab', 'mlp', 'heads', 'kv')
_LEAST_TO_FACTOR = 128


def with_a_table_in_every_layer(leaves):
  """Gives each layer a relative position table, as examples/scalable_t5/network.py does."""
  copies = {}
  for name, array in leaves.items():
    stack, _, rest = name.partition('/')
    if rest.startswith('relpos_bias/'):
      layers = {other.split('/')[1] for other in leaves if other.startswith(f'{stack}/layers_')}
      for i, layer in enumerate(sorted(layers)):
        copies[f'{stack}/{layer}/{rest}'] = array + i
    else:
      copies[name] = array
  return copies


def train_state(params, gradients, step, config, *, scanned=False):
  """The state_dict of T5X's FlaxOptimTrainState after one step, whose second moments are all new.

  Args:
    params, gradients: arrays by our names with the layers apart.
    step: the step.
    config: the T5Config they are of.
    scanned: as examples/scalable_t5/network.py has them (nn.scan with variable_axes params at
      param_scan_axis=1, under the name of the stack, and attention kernels with an axis of heads),
      else as examples/t5/network.py does.
  """
  if scanned:
    params, axes = _scan(params, config)
    gradients, _ = _scan(gradients, config)
  else:
    axes = {}
  states = {}
  for name, gradient in gradients.items():
    squared = gradient.astype(np.float32) ** 2
    slots = _factored(squared, axes[name]) if name in axes else _by_heuristics(squared)
    empty = np.zeros((1,), np.float32)
    states |= {f'{name}/{slot}': slots.get(slot, empty) for slot in ('m', 'v', 'v_row', 'v_col')}
  return {
    'target': layout.unflatten(params),
    'state': {'step': np.int32(step), 'param_states': layout.unflatten(states)},
  }


def _by_heuristics(squared):
  """Adafactor._factored_dims and init_param_state in T5X's adafactor.py, for up to two axes."""
  order = np.argsort(squared.shape)
  if squared.ndim < 2 or squared.shape[order[-2]] < _LEAST_TO_FACTOR:
    return {'v': squared}
  return {'v_row': squared.mean(axis=order[-1]), 'v_col': squared.mean(axis=order[-2])}


def _factored(squared, axes):
  """Adafactor._parse_rule and apply_param_gradient in T5X's adafactor.py, with its rules."""
  rows = tuple(i for i, axis in enumerate(axes) if axis in _ROWS)
  columns = tuple(i for i, axis in enumerate(axes) if axis in _COLUMNS)
  if not rows or not columns:
    return {'v': squared}
  return {'v_row': squared.mean(axis=columns), 'v_col': squared.mean(axis=rows)}


def _scan(leaves, config):
  """Returns the arrays with the layers in one, and the logical axes of those."""
  sizes = {'embed': config.emb_dim, 'mlp': config.mlp_dim}
  sizes |= {'heads': config.num_heads, 'kv': config.head_dim}
  stacked, axes = {}, {}
  for name in leaves:
    stack, layer, *rest = name.split('/')
    if layer != 'layers_0':
      if not layer.startswith('layers_'):
        stacked[name] = leaves[name]
      continue
    (logical,) = [value for keys, value in _AXES.items() if rest[-2] in keys] or [None]
    if rest[-1] == 'scale':
      logical = ('embed',)
    elif rest[-1] == 'rel_embedding':
      logical = ('heads', 'relpos_buckets')
    num_layers = getattr(config, f'num_{stack}_layers')
    layers = [leaves['/'.join([stack, f'layers_{i}', *rest])] for i in range(num_layers)]
    if rest[-1] == 'kernel':
      layers = [array.reshape([sizes[axis] for axis in logical]) for array in layers]
    scanned_name = '/'.join([stack, stack, *rest])
    stacked[scanned_name] = np.stack(layers, axis=1)
    axes[scanned_name] = (logical[0], 'layers', *logical[1:])
  return stacked, axes


def msgpack_file(state, folder):
  """One file: Checkpointer.save in T5X's checkpoints.py where no array is partitioned."""
  file = pathlib.Path(folder) / 'model.checkpoint_7'
  file.parent.mkdir(exist_ok=True)
  content = {'version': 3, 'optimizer': state}
  file.write_bytes(serialization.msgpack_serialize(content))
  return file


def native(state, folder, *, folder_name='checkpoint_7'):
  """A folder: Checkpointer.save, _get_parameter_infos and _write_array in T5X's checkpoints.py.

  Parameters and whole second moments are partitioned there, and so are zarr arrays; the rest is in
  the msgpack file.
  """
  folder = pathlib.Path(folder) / folder_name
  folder.mkdir(parents=True)
  written = {}
  for name, array in layout.flatten(state).items():
    if _is_partitioned(name, array):
      array = _write_zarr(folder, name.replace('/', '.'), array, {'id': 'gzip'})
    written[name] = array
  content = {'version': 3, 'optimizer': layout.unflatten(written)}
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(content))
  return folder


def early_orbax(state, folder):
  """A folder with state/: OrbaxCheckpointManagerInterface.save in T5X's checkpoints.py.

  Orbax's PyTreeCheckpointHandler wrote what T5X told it to aggregate into a msgpack file, and
  placeholders for the rest.
  """
  folder = pathlib.Path(folder) / 'checkpoint_7'
  (folder / 'state').mkdir(parents=True)
  written = {}
  for name, array in layout.flatten(state).items():
    if _is_partitioned(name, array):
      dotted = name.replace('/', '.')
      _write_zarr(folder / 'state', dotted, array, {'id': 'zstd'})
      array = f'PLACEHOLDER://{dotted}'
    written[name] = array
  content = serialization.msgpack_serialize(layout.unflatten(written))
  (folder / 'state' / 'checkpoint').write_bytes(content)
  return folder


def _is_partitioned(name, array):
  return name.startswith('target/') or (name.endswith('/v') and array.shape != (1,))


def _write_zarr(folder, name, array, compressor):
  """Returns the specification with a relative path, as JSON."""
  metadata = {
    'compressor': compressor,
    'shape': array.shape,
    'chunks': [-(-size // 2) for size in array.shape],
  }
  spec = {
    'driver': 'zarr',
    'dtype': array.dtype.name,
    'kvstore': {'driver': 'file', 'path': name},
    'metadata': metadata,
  }
  absolute = {**spec, 'kvstore': {'driver': 'file', 'path': os.fspath(folder / name)}}
  tensorstore.open(absolute, create=True, open=True).result().write(array).result()
  return tensorstore.Spec(spec).to_json()


def orbax_zarr(state, folder):
  """A folder with state/, by the Orbax that is installed, each array a folder."""
  return _orbax(state, folder, use_ocdbt=False)


def orbax_ocdbt(state, folder):
  """A folder with state/, by the Orbax that is installed, in one database."""
  return _orbax(state, folder, use_ocdbt=True)


def orbax_zarr3(state, folder):
  """A folder with the arrays at once, by the Orbax that is installed, in a later form of zarr."""
  return _orbax(state, folder, item='', use_ocdbt=True, use_zarr3=True)


def _orbax(state, folder, item='state', **options):
  folder = pathlib.Path(folder) / 'checkpoint_7'
  handler = orbax.checkpoint.PyTreeCheckpointHandler(**options)
  orbax.checkpoint.Checkpointer(handler).save(folder / item, state)
  return folder


WRITERS = (msgpack_file, native, early_orbax, orbax_zarr, orbax_ocdbt, orbax_zarr3)
