"""The device mesh, the rules from logical axes to it, and the report of what lies where.

Logical axis names stand in the model; a table of rules maps them to the mesh's axes 'data',
'fsdp' and 'tensor'. Everything else is derived.
"""

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5x_lite import errors

MESH_AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')
# Elements of the smallest array whose update is divided.
_LEAST_DIVIDED = 2**14

# Where the vocabulary is divided by fsdp, too, a device makes its part of the logits of all rows of
# its group, in place of getting the whole matrix and summing its gradient for each chunk of tokens.
RULES = (
  ('batch', BATCH_AXES),
  ('vocab', ('tensor', 'fsdp')),
  ('vocab', 'tensor'),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
  ('joined_kv', 'tensor'),
  ('embed', 'fsdp'),
  ('length', None),
  ('kv', None),
  ('layers', None),
  ('relpos_buckets', None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh's axes 'data', 'fsdp' and 'tensor'; -1 stands for what is left.

  Attributes:
    ici: within a slice, over its fast interconnect.
    dcn: over slices (or GPU hosts), over the data-centre network.
    rules: pairs of a logical axis and a mesh axis, a tuple of them, or None. They are tried in
      order: those of an axis of a parameter that does not divide so are passed over for others.
    shard_optimizer_state: divide the optimizer's state over 'data' too, see `zero1`.
  """

  ici: Sequence[int] = (-1, 1, 1)
  dcn: Sequence[int] = (1, 1, 1)
  rules: Sequence = RULES
  shard_optimizer_state: bool = False

  def __post_init__(self):
    for logical, axes in self.rules:
      for axis in _as_tuple(axes):
        if axis not in MESH_AXES:
          raise errors.UserError(
            f'MeshConfig.rules maps {logical!r} to {axis!r}, which is none of the mesh axes '
            f'{MESH_AXES}'
          )


def data_parallel():
  """Parameters on every device, the batch divided."""
  return MeshConfig(ici=(-1, 1, 1))


def zero1():
  """Parameters on every device, the batch and the optimizer's state divided.

  Each device sums the gradients of its part of the parameters and updates that, and then the parts
  are gathered (Rajbhandari et al. 2020, section 5.1).
  """
  return MeshConfig(ici=(-1, 1, 1), shard_optimizer_state=True)


def fsdp():
  """Parameters, optimizer state and batch divided over all devices."""
  return MeshConfig(ici=(1, -1, 1))


def tensor():
  """Heads, feed-forward width and vocabulary divided over all devices."""
  return MeshConfig(ici=(1, 1, -1))


def fsdp_tensor(tensor=2):
  """`tensor` devices share every matrix, and fsdp divides over the rest."""
  return MeshConfig(ici=(1, -1, tensor))


def divided_residual():
  """Rules that divide the width of what layers hand on by tensor, too, for `MeshConfig.rules`.

  It is T5X's two-dimensional way of dividing activations (Roberts et al. 2022). Layers then gather
  their inputs, and what is kept of these takes less memory. For meshes where data or fsdp is 1, see
  `make_mesh`.
  """
  return (*RULES, ('embed', 'tensor'))


def make_mesh(config, devices=None):
  """Returns the `jax.sharding.Mesh` of a `MeshConfig` over the given or all devices.

  Raises:
    UserError: if the sizes do not fit the devices, or the rules the sizes.
  """
  mesh = _make_mesh(config, jax.devices() if devices is None else devices)
  # XLA's partitioner, of jax 0.10.2 and 0.12.0, multiplies [batch, mlp] with [mlp, embed] wrongly on
  # 2 x 2 x 2 devices, if the product is wanted by tensor along embed. On 2 x 4 x 2 it does not, but
  # why is not known.
  divides_residual = any(
    axis == 'embed' and _as_tuple(axes) == ('tensor',) for axis, axes in config.rules
  )
  if divides_residual and min(mesh.shape.values()) > 1:
    raise errors.UserError(
      "MeshConfig.rules with 'embed' divided by 'tensor' can be computed wrongly by XLA on a mesh of "
      f'{dict(mesh.shape)}: make data or fsdp 1, or leave that rule out'
    )
  return mesh


def _make_mesh(config, devices):
  axis_types = (AxisType.Auto,) * len(MESH_AXES)
  if tuple(config.dcn) == (1, 1, 1):
    ici = _fill(config.ici, len(devices), 'ici', 'devices')
    return jax.make_mesh(ici, MESH_AXES, axis_types=axis_types, devices=devices)

  # The data-centre network joins TPU slices; other devices have none, and it joins hosts.
  slices = {getattr(device, 'slice_index', 0) for device in devices}
  hosts = {device.process_index for device in devices}
  parts = len(slices) if len(slices) > 1 else len(hosts)
  dcn = _fill(config.dcn, parts, 'dcn', 'slices or hosts')
  ici = _fill(config.ici, len(devices) // parts, 'ici', 'devices of a slice or host')
  array = mesh_utils.create_hybrid_device_mesh(
    ici, dcn, devices, process_is_granule=len(slices) == 1
  )
  return jax.sharding.Mesh(array, MESH_AXES, axis_types=axis_types)


def _fill(shape, count, name, things):
  """Replaces the -1 of a mesh shape by what is left of `count` `things`."""
  shape = tuple(shape)
  known = math.prod(n for n in shape if n != -1)
  positive = all(n > 0 or n == -1 for n in shape)
  if len(shape) != len(MESH_AXES) or shape.count(-1) > 1 or not positive:
    raise errors.UserError(
      f'MeshConfig.{name}={shape} must give a positive size for each of {MESH_AXES}, at most '
      'one of them -1'
    )
  filled = tuple(count // known if n == -1 else n for n in shape)
  if math.prod(filled) != count:
    raise errors.UserError(
      f'MeshConfig.{name}={shape} does not fit the {count} {things} there are: make the product '
      'of its sizes their number, or one size -1'
    )
  return filled


@contextlib.contextmanager
def activate(mesh, rules):
  """Traces and runs what is inside on `mesh`, the model's logical axes mapped by `rules`."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules)):
    yield


def batch_sharding(mesh):
  """The sharding of a batch: rows over the data and fsdp axes."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def rows_of_hosts(mesh, batch_size: int) -> dict[int, list[int]]:
  """Returns the rows of a batch that the devices of each host hold, in order, by its number.

  Hosts among which matrices are divided, and not the batch, hold the same rows.
  """
  rows = {}
  for device, (index,) in batch_sharding(mesh).devices_indices_map((batch_size,)).items():
    rows.setdefault(device.process_index, set()).update(range(batch_size)[index])
  return {host: sorted(held) for host, held in sorted(rows.items())}


def put_rows(batch, rows, mesh, batch_size: int):
  """Makes a batch on all devices of the rows that those of this host hold.

  Args:
    batch: tree of numpy arrays [rows, ...].
    rows: which rows of the batch these are, see `rows_of_hosts`.
    mesh: the mesh.
    batch_size: number of rows on all hosts.
  """
  place = {row: i for i, row in enumerate(rows)}

  def put(x):
    def of_device(index):
      wanted = range(batch_size)[index[0]]
      return x[place[wanted[0]] : place[wanted[-1]] + 1]

    shape = (batch_size, *x.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), of_device)

  return jax.tree.map(put, batch)


def num_batch_shards(mesh) -> int:
  """Returns over how many devices a batch is divided."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size, mesh, num_microbatches=1):
  """Raises UserError if `batch_size` rows cannot be divided over devices and microbatches."""
  devices = num_batch_shards(mesh)
  if batch_size < 1 or num_microbatches < 1:
    raise errors.UserError(
      f'BATCH_SIZE={batch_size} and NUM_MICROBATCHES={num_microbatches} must be at least 1'
    )
  if batch_size % (devices * num_microbatches):
    raise errors.UserError(
      f'BATCH_SIZE={batch_size} is not divisible by the {devices} devices on mesh axes '
      f'{BATCH_AXES}' + (f' times {num_microbatches} microbatches' if num_microbatches > 1 else '')
    )


def wait_for_hosts(where: str):
  """Returns when all hosts of the job have come here.

  Args:
    where: the same name on all of them.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


def replicated(mesh):
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def param_shardings(params, logical, mesh, rules):
  """Returns the tree of NamedSharding that the rules give parameters.

  Args:
    params: tree of arrays or of shapes.
    logical: tree of `PartitionSpec`s of logical axes.
    mesh: the mesh.
    rules: see `MeshConfig`.

  Raises:
    UserError: if an axis of a parameter does not divide by its mesh axes.
  """

  def place(path, param, axes):
    return NamedSharding(mesh, _place('/'.join(names(path)), param.shape, axes, mesh, rules))

  return jax.tree_util.tree_map_with_path(place, params, logical)


def constrain(x, logical):
  """Places an array of a program as `param_shardings` places a parameter, where `activate` is in use.

  Args:
    x: array.
    logical: a logical axis, or None, for each of its axes.
  """
  mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
  if mesh.empty or not rules:
    return x
  spec = _place('an array', x.shape, logical, mesh, rules)
  return jax.lax.with_sharding_constraint(x, spec)


def _place(name, shape, logical, mesh, rules):
  """Returns the spec of a parameter, of which each mesh axis divides one axis at most."""
  placed, misfits = {}, {}
  for axis, mesh_axes in rules:
    taken = {each for axes in placed.values() for each in _as_tuple(axes)}
    if axis not in logical or axis in placed or taken & set(_as_tuple(mesh_axes)):
      continue
    size = shape[logical.index(axis)]
    parts = math.prod(mesh.shape[each] for each in _as_tuple(mesh_axes))
    if size % parts:
      misfits[axis] = (
        f'{name} has an axis of {size}, which does not divide by the {parts} devices on mesh '
        f'axes {_as_tuple(mesh_axes)}: change MeshConfig.ici or the rules'
      )
    else:
      placed[axis] = mesh_axes
  for axis, misfit in misfits.items():
    if axis not in placed:
      raise errors.UserError(misfit)
  return PartitionSpec(*map(placed.get, logical))


def update_shardings(params):
  """Returns the tree of NamedSharding that divides parameters over 'data' for their update.

  It divides the axis of which a device has most, among those that divide. Small arrays stay whole:
  to send their parts takes as long.

  Args:
    params: tree of arrays, or of shapes with shardings.
  """

  def divide(x):
    mesh, axes = x.sharding.mesh, list(_padded(x.sharding.spec, x.ndim))
    pieces = x.sharding.shard_shape(x.shape)
    fitting = [i for i, piece in enumerate(pieces) if piece % mesh.shape['data'] == 0]
    is_divided = any('data' in _as_tuple(axis) for axis in axes)
    if fitting and not is_divided and math.prod(x.shape) >= _LEAST_DIVIDED:
      largest = max(fitting, key=lambda i: pieces[i])
      axes[largest] = (*_as_tuple(axes[largest]), 'data')
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree.map(divide, params)


def optimizer_shardings(opt_state, params, shardings, mesh):
  """Returns the tree of NamedSharding of an optimizer's state.

  An array follows the parameter whose name its own path ends with: the whole sharding if the
  shapes agree, that of the remaining axes if it lacks one, and otherwise it is replicated.
  """
  of_params = {
    names(path): (param.shape, sharding.spec)
    for (path, param), sharding in zip(
      jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
    )
  }

  def follow(path, leaf):
    path = names(path)
    suffixes = (path[i:] for i in range(len(path)))
    shape, spec = next((of_params[s] for s in suffixes if s in of_params), ((), PartitionSpec()))
    return NamedSharding(mesh, _derived_spec(leaf.shape, shape, spec))

  return jax.tree_util.tree_map_with_path(follow, opt_state)


def _derived_spec(shape, param_shape, param_spec):
  """Returns the spec of an array that goes with a parameter, by its shape."""
  axes = _padded(param_spec, len(param_shape))
  if shape == param_shape:
    return PartitionSpec(*axes)
  for i in range(len(param_shape)):
    if shape == param_shape[:i] + param_shape[i + 1 :]:
      return PartitionSpec(*axes[:i], *axes[i + 1 :])
  return PartitionSpec()


def names(path):
  """Returns the keys of a tree path as a tuple of strings."""
  return tuple(
    str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path
  )


def report(state):
  """Returns a table of every parameter: shape, mesh axes, bytes on one device.

  Args:
    state: `TrainState` of arrays or of shapes with shardings.
  """
  rows = [('parameter', 'shape', 'mesh axes', 'bytes per device')]
  for path, x in jax.tree_util.tree_leaves_with_path(state.params):
    axes = ', '.join(_axis_name(axis) for axis in _padded(x.sharding.spec, x.ndim))
    shape = ' x '.join(map(str, x.shape))
    rows.append(('/'.join(names(path)), shape, axes, f'{bytes_per_device(x):,}'))
  totals = [('all parameters', state.params), ('optimizer state', state.opt_state)]
  if state.trainable is not None:
    totals.insert(1, ('trainable parameters', state.split_params()[0]))
  for label, tree in totals:
    rows.append((label, f'{count(tree):,}', '', f'{bytes_per_device(tree):,}'))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for name, shape, axes, size in rows:
    line = f'{name:<{widths[0]}}  {shape:<{widths[1]}}  {axes:<{widths[2]}}  {size:>{widths[3]}}'
    lines.append(line)
  return '\n'.join(lines)


def summary(state):
  """Returns the totals of `report` in one line."""
  params, opt_state = (bytes_per_device(tree) / 2**20 for tree in (state.params, state.opt_state))
  mesh = jax.tree.leaves(state.params)[0].sharding.mesh
  axes = ', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  trainable = ''
  if state.trainable is not None:
    trainable = f', {count(state.split_params()[0]):,} of them trainable,'
  return (
    f'{count(state.params):,} parameters{trainable} on a mesh of {axes}; per device '
    f'{params:,.1f} MiB of parameters and {opt_state:,.1f} MiB of optimizer state'
  )


def trainable_share(state):
  """Returns the share of the parameters that are trained."""
  return count(state.split_params()[0]) / count(state.params)


def count(tree) -> int:
  """Returns the number of elements of arrays or shapes."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def bytes_per_device(tree) -> int:
  """Returns what arrays, or shapes with shardings, take of one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def _padded(spec, ndim):
  return tuple(spec) + (None,) * (ndim - len(spec))


def _as_tuple(axes):
  """The mesh axes that divide an axis, as they stand in rules and in a PartitionSpec."""
  return (axes,) if isinstance(axes, str) else tuple(axes or ())


def _axis_name(axis):
  return '-' if axis is None else axis if isinstance(axis, str) else '+'.join(axis)
