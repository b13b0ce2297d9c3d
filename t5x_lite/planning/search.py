"""Tries ways to divide a train step over devices, to find the one that takes the least time of those that fit.

A compilation takes up to minutes and both cores of a small machine, so they go on one after the other, and what need
not be compiled is not: meshes that do not divide the model or leave no room for its state, microbatches where the
activations fit, remat policies and rules on every mesh.
"""

import collections
import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence

import jax

from t5x_lite import errors, sharding
from t5x_lite.planning import estimate, programs, topologies

Shape = tuple[int, int, int]
_MESHES_BEFORE_POLICIES = 5
# What the backward pass finds kept, from all to nothing but the inputs of layers, see `T5Config`.
POLICIES = (
  'none',
  'minimal',
  ('context', 'mlp_wi'),
  ('context', 'attention_out'),
  'full',
)


@dataclasses.dataclass(frozen=True)
class Candidate:
  """What is varied.

  Attributes:
    ici: see `sharding.MeshConfig`.
    remat_policy: see `T5Config`.
    num_microbatches: parts of a batch.
    divides_residual: by `sharding.divided_residual`, in place of the rules of the step.
  """

  ici: Shape
  remat_policy: str | tuple[str, ...]
  num_microbatches: int = 1
  divides_residual: bool = False

  def __str__(self):
    policy = self.remat_policy
    kept = policy if isinstance(policy, str) else '+'.join(policy)
    mesh = named(self.ici) + (', residual' if self.divides_residual else '')
    return f'{mesh:<22}  {kept:<21} {self.num_microbatches:>12}'

  def flags(self, dcn: Shape) -> str:
    """Returns what to add to the command line for it."""
    flags = ['--gin.MESH=@sharding.MeshConfig()', f'--gin.MeshConfig.ici={self.ici}']
    if math.prod(dcn) > 1:
      flags.append(f'--gin.MeshConfig.dcn={dcn}')
    if self.divides_residual:
      flags.append('--gin.MeshConfig.rules=@sharding.divided_residual()')
    flags += [
      f'--gin.REMAT_POLICY={self.remat_policy}',
      f'--gin.NUM_MICROBATCHES={self.num_microbatches}',
    ]
    return shlex.join(flags)


@dataclasses.dataclass(frozen=True)
class Tried:
  """What became of a candidate.

  Attributes:
    candidate: which.
    memory: what it takes.
    state_bytes: what of that is parameters, optimizer state and gradients.
    rows: of the batch on each device.
    roofline: its time; None if it does not fit.
  """

  candidate: Candidate
  memory: estimate.Memory
  state_bytes: int
  rows: int
  roofline: estimate.Roofline | None

  def __str__(self):
    peak = f'{self.candidate}  {self.memory.peak / 2**30:8.2f} GiB'
    if self.roofline is None:
      return f'{peak}  does not fit'
    seconds = (self.roofline.seconds, self.roofline.serial_seconds)
    times = ' - '.join(f'{1e3 * each:.1f}' for each in seconds)
    shares = ' - '.join(f'{self.roofline.mfu(each):.0%}' for each in reversed(seconds))
    return f'{peak}  {times:>19} ms  {shares:>10}'


HEADER = (
  f'{"mesh":<22}  {"remat":<21} {"microbatches":>12}  {"peak":>12}  {"step":>22}  {"MFU":>10}'
)


def named(shape: Shape) -> str:
  """Returns the sizes of the axes data, fsdp and tensor in words: '1 x 16 x 4'."""
  return ' x '.join(map(str, shape))


@dataclasses.dataclass(frozen=True)
class Beginning:
  """What is known before anything is compiled.

  Attributes:
    shapes: of meshes that may do, the likeliest first.
    left_out: the others, by the reason.
    dcn: how slices are divided: as is configured, else the batch alone is.
  """

  shapes: Sequence[Shape]
  left_out: Mapping[str, Sequence[Shape]]
  dcn: Shape


def begin(step: programs.TrainStep) -> Beginning:
  """Finds the meshes that divide a step and leave room for its state.

  Raises:
    UserError: nobody says how fast the devices are.
  """
  return topologies.call(step.topology, lambda: _begin(step))


def _begin(step):
  limit = estimate.memory_limit(step.devices)
  if limit is None:
    raise errors.UserError(
      f'--search ranks by time, but nothing is known of {step.devices[0].device_kind}: give --topology=v5e:4x4'
    )
  slices = len({getattr(device, 'slice_index', 0) for device in step.devices})
  dcn = tuple(step.mesh.dcn) if math.prod(step.mesh.dcn) != 1 else (slices, 1, 1)
  likely, left_out = [], collections.defaultdict(list)
  for shape in _shapes(len(step.devices) // slices):
    try:
      state = _with(step, Candidate(shape, step.model.remat_policy), dcn).abstract_state()
    except errors.UserError as error:
      left_out[str(error)].append(shape)
      continue
    if _state_bytes(state) > limit:
      left_out['parameters, optimizer state and gradients alone are too large'].append(shape)
    else:
      likely.append((_guess_sent_bytes(shape, dcn, step, state), shape))
  return Beginning([shape for _, shape in sorted(likely)], dict(left_out), dcn)


def run(
  step: programs.TrainStep, begun: Beginning, limit: int, exact: bool = False
) -> Iterator[Tried]:
  """Tries candidates: policies on the first mesh, the best on others, all on the best of these, then what did not fit.

  Args:
    step: what is varied.
    begun: from `begin`.
    limit: the most that are tried.
    exact: see `estimate.compile_for`.
  """
  first, shapes, tried = begun.shapes[:1], list(begun.shapes[1:]), []
  queue = [Candidate(shape, policy) for shape in first for policy in POLICIES]
  while queue and len(tried) < limit:
    candidate = queue.pop(0)
    tried.append(
      topologies.call(step.topology, lambda each=candidate: _try(step, each, begun.dcn, exact))
    )
    yield tried[-1]
    queue = queue or _next(tried, shapes, begun.dcn)


def fastest(tried: Sequence[Tried]) -> list[Tried]:
  """Returns those that fit, the fastest first: if all that can overlap does, and then if nothing does."""
  fitting = (each for each in tried if each.roofline is not None)
  return sorted(fitting, key=lambda each: (each.roofline.seconds, each.roofline.serial_seconds))


def _next(tried, shapes, dcn):
  """The next candidates: some meshes, then all policies and rules on the fastest and on the smallest, then other meshes."""
  done = {each.candidate for each in tried}
  fitting = fastest(tried)
  if fitting:
    best, smallest = fitting[0], min(fitting, key=lambda each: each.memory.peak)
    others = [
      dataclasses.replace(each.candidate, remat_policy=policy, divides_residual=divides)
      for each in (best, smallest)
      for policy in POLICIES
      for divides in {False, _residual_divides(each.candidate.ici, dcn)}
    ]
    others = [each for each in dict.fromkeys(others) if each not in done]
    few = len({each.candidate.ici for each in tried}) < _MESHES_BEFORE_POLICIES
    if shapes and (few or not others):
      divides = best.candidate.divides_residual and _residual_divides(shapes[0], dcn)
      return [dataclasses.replace(best.candidate, ici=shapes.pop(0), divides_residual=divides)]
    if others:
      return others
  by_peak = sorted(tried, key=lambda each: each.memory.peak)
  least = by_peak[0]
  # Another mesh divides the state, too, and microbatches the activations alone.
  if shapes and least.memory.peak < 2 * least.state_bytes:
    return [Candidate(shapes.pop(0), least.candidate.remat_policy)]
  for each in by_peak:
    if each.roofline is None and (not fitting or each.candidate.ici == best.candidate.ici):
      divided = _divided(each)
      if divided is not None and divided not in done:
        return [divided]
  return [Candidate(shapes.pop(0), least.candidate.remat_policy)] if shapes else []


def _residual_divides(ici, dcn):
  """Whether `sharding.divided_residual` is another way than the usual rules, and one that `sharding.make_mesh` takes."""
  data, fsdp, tensor = (a * b for a, b in zip(ici, dcn, strict=True))
  return tensor > 1 and 1 in (data, fsdp)


def _divided(tried):
  """A candidate that did not fit, in so many more microbatches that it may; None if there cannot be so many."""
  room = tried.memory.limit - tried.state_bytes
  if room <= 0:
    return None
  least = tried.candidate.num_microbatches * max(2, (tried.memory.peak - tried.state_bytes) / room)
  number = next((n for n in range(math.ceil(least), tried.rows + 1) if tried.rows % n == 0), None)
  return number and dataclasses.replace(tried.candidate, num_microbatches=number)


def _try(step, candidate, dcn, exact):
  varied = _with(step, candidate, dcn)
  state = varied.abstract_state()
  program = varied.lower(state)
  compiled, memory = estimate.compile_for(program, step.devices, exact)
  roofline = None
  if memory.fits:
    work = program.model_flops
    roofline = estimate.roofline(compiled, step.devices, work, step.model.dtype)
  rows = step.batch_size // sharding.num_batch_shards(jax.tree.leaves(state)[0].sharding.mesh)
  return Tried(candidate, memory, _state_bytes(state), rows, roofline)


def _with(step, candidate, dcn):
  mesh = dataclasses.replace(step.mesh, ici=candidate.ici, dcn=dcn)
  if candidate.divides_residual:
    mesh = dataclasses.replace(mesh, rules=sharding.divided_residual())
  model = dataclasses.replace(step.model, remat_policy=candidate.remat_policy)
  microbatches = candidate.num_microbatches
  return dataclasses.replace(step, mesh=mesh, model=model, num_microbatches=microbatches)


def _state_bytes(state):
  """What is there at once at least: parameters, what the optimizer keeps, and the gradients of what is trained."""
  return sharding.bytes_per_device((state.params, state.opt_state, state.split_params()[0]))


def _shapes(devices):
  """All sizes of the mesh axes data, fsdp and tensor for so many devices."""
  parts = [n for n in range(1, devices + 1) if devices % n == 0]
  return [
    (data, fsdp, devices // data // fsdp)
    for data in parts
    for fsdp in parts
    if devices // data % fsdp == 0
  ]


def _guess_sent_bytes(shape, dcn, step, state):
  """About what a device sends in a step over the links of a slice, to begin with the likeliest mesh.

  Weights are gathered over fsdp forward and backward, and their gradients summed over data and fsdp; over tensor the
  outputs of attention and feed-forward layers are summed, forward and backward (Shoeybi et al. 2019, section 3).
  """
  data, fsdp, tensor = shape
  model = step.model
  weights = sharding.count(state.params) * 2 / tensor  # Bytes in bfloat16.
  over_fsdp = 4 * weights * (fsdp - 1) / fsdp
  over_data = 2 * weights / fsdp * (data - 1) / data
  tokens = step.batch_size * sum(step.lengths.values()) / (data * fsdp * math.prod(dcn[:2]))
  layers = 2 * model.num_encoder_layers + 3 * model.num_decoder_layers
  # Twice each, around a ring.
  over_tensor = 2 * layers * 2 * 2 * tokens * model.emb_dim / 2 * (tensor - 1) / tensor
  return over_fsdp + over_data + over_tensor
