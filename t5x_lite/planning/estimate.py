"""What a compiled program takes of each device: memory, and by the roofline model its least time."""

import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Sequence

import jax

from t5x_lite.monitoring import flops
from t5x_lite.planning import hlo, topologies

# What the TPU compiler says of a program that does not fit, before or after it laid out its buffers.
_REFUSED = (
  re.compile(r'HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)'),
  re.compile(r'Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm'),
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device.

  Attributes:
    peak: the most at a time, with what is there before, such as parameters, optimizer state and the batch.
    limit: what there is; None if that is not known.
    fits: whether the compiler took it.
    largest: the largest arrays, each with what it is of.
  """

  peak: float
  limit: float | None
  fits: bool
  largest: Sequence[tuple[hlo.Array, str]]


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Williams et al. 2009: a program takes no less time than the slowest of what it does at once.

  Attributes:
    flops: of one device.
    moved_bytes: from and to its memory.
    sent_bytes: to other devices.
    collectives: what that consists of.
    flops_seconds: at its peak; None where that is not known, as for the next two.
    memory_seconds: at its memory's bandwidth.
    link_seconds: at the bandwidth of its links.
  """

  flops: float
  moved_bytes: float
  sent_bytes: float
  collectives: Sequence[hlo.Collective]
  flops_seconds: float | None
  memory_seconds: float | None
  link_seconds: float | None

  @property
  def seconds(self) -> float | None:
    """The least time; None where nothing is known of the device."""
    known = (self.flops_seconds, self.memory_seconds, self.link_seconds)
    return None if None in known else max(known)


def compile_for(
  lowered: jax.stages.Lowered, devices: Sequence[jax.Device], argument_bytes: int
) -> tuple[jax.stages.Compiled | None, Memory]:
  """Compiles a program; returns it, or None if it does not fit, and what memory it takes.

  Args:
    lowered: the program.
    devices: all that it is for.
    argument_bytes: of its arguments on each of them.
  """
  if devices[0].platform != 'tpu':
    compiled = lowered.compile()
    return compiled, _memory(compiled, devices)
  with tempfile.TemporaryDirectory() as folder:
    # The compiler keeps a program that it refuses for nobody, but in its dump.
    options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    try:
      compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      told = [match for pattern in _REFUSED if (match := pattern.search(str(error)))]
      if not told:
        raise
      [dump] = pathlib.Path(folder).glob('*.after_optimizations.txt')
      used, limit = (float(told[0][i]) * _UNITS[told[0][i + 1]] for i in (1, 3))
      if told[0].re is _REFUSED[0]:
        used += argument_bytes
      return None, Memory(used, limit, False, hlo.Program(dump.read_text()).largest(3))
  return compiled, _memory(compiled, devices)


def _memory(compiled, devices):
  kept = compiled.memory_analysis()
  peak = (
    kept.argument_size_in_bytes
    + kept.output_size_in_bytes
    - kept.alias_size_in_bytes
    + kept.temp_size_in_bytes
    + kept.generated_code_size_in_bytes
  )
  chip = topologies.chip(devices[0].device_kind)
  limit = chip and chip.memory_bytes / topologies.cores_per_chip(devices)
  return Memory(peak, limit, True, hlo.Program(compiled.as_text()).largest(3))


def roofline(compiled, devices: Sequence[jax.Device], total_flops: float, dtype: str) -> Roofline:
  """Estimates the least time of a program.

  Args:
    compiled: the `jax.stages.Compiled`.
    devices: all that it runs on.
    total_flops: of all of them.
    dtype: of the products.
  """
  program = hlo.Program(compiled.as_text())
  collectives = program.collectives()
  work = total_flops / len(devices)
  moved, sent = program.moved_bytes(), sum(each.count * each.sent_bytes for each in collectives)
  kind, cores = devices[0].device_kind, topologies.cores_per_chip(devices)
  peak, chip = flops.peak_flops(kind, dtype), topologies.chip(kind)
  return Roofline(
    flops=work,
    moved_bytes=moved,
    sent_bytes=sent,
    collectives=collectives,
    flops_seconds=peak and work / (peak / cores),
    memory_seconds=chip and moved / (chip.memory_bandwidth / cores),
    link_seconds=chip and sent / (chip.link_bandwidth / cores),
  )
