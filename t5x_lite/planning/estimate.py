"""What a compiled program takes of each device: memory, and by the roofline model its least time."""

import dataclasses
import pathlib
import re
import tempfile
import threading
from collections.abc import Sequence

import jax

from t5x_lite.monitoring import flops
from t5x_lite.planning import collectives, hlo, programs, topologies, work

_TOTAL = re.compile(r'\(color=0\)\nTotal bytes: (\d+)')
# What the TPU compiler keeps of the memory for itself, and what code takes besides arrays, about.
_RESERVED_BYTES = 0.25 * 2**30
_CODE_BYTES = 0.1 * 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device.

  Attributes:
    peak: the most at a time, with what is there before, such as parameters, optimizer state and the batch.
    limit: what there is; None if that is not known.
    fits: whether the compiler took it.
  """

  peak: float
  limit: float | None
  fits: bool


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Williams et al. 2009: a program takes no less time than the slowest of what it does at once.

  Attributes:
    model_flops: of one device, those that the model needs.
    flops: those that it computes, recomputation with them.
    moved_bytes: from and to its memory.
    sent_bytes: to other devices of its slice.
    network_bytes: to other slices, over the data-centre network.
    collectives: what these consist of.
    peak_flops: of the device, a second; None where that is not known, and so are the times.
    flops_seconds: at that peak.
    memory_seconds: at its memory's bandwidth.
    link_seconds: at the bandwidth of its links.
    network_seconds: at its share of the bandwidth between slices.
  """

  model_flops: float
  flops: float
  moved_bytes: float
  sent_bytes: float
  network_bytes: float
  collectives: Sequence[collectives.Collective]
  peak_flops: float | None
  flops_seconds: float | None
  memory_seconds: float | None
  link_seconds: float | None
  network_seconds: float | None

  @property
  def _all_seconds(self):
    return (self.flops_seconds, self.memory_seconds, self.link_seconds, self.network_seconds)

  @property
  def seconds(self) -> float | None:
    """The least time, if all of it goes on at once; None where something is not known of the device."""
    return None if None in self._all_seconds else max(self._all_seconds)

  @property
  def serial_seconds(self) -> float | None:
    """The least time, if one thing goes on after the other."""
    return None if None in self._all_seconds else sum(self._all_seconds)

  def mfu(self, seconds: float) -> float:
    """Returns the model FLOPs utilization of a program that takes so long."""
    return self.model_flops / self.peak_flops / seconds


def compile_for(
  program: programs.Program, devices: Sequence[jax.Device], exact: bool = False
) -> tuple[hlo.Program, Memory]:
  """Compiles a program; returns it and what memory it takes.

  Args:
    program: what to compile.
    devices: all that it is for.
    exact: whether code is generated for TPUs, too, which takes many times as long as all else. Without it that goes on
      in a thread which nobody can stop, see `planning.apart`.
  """
  limit = memory_limit(devices)
  if devices[0].platform != 'tpu':
    compiled = program.lowered.compile()
    peak = _peak(compiled.memory_analysis())
    return hlo.Program(compiled.as_text()), Memory(peak, limit, limit is None or peak <= limit)
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
    folder = pathlib.Path(name)
    compilation = _Compilation(program.lowered, folder)
    compilation.wait(exact)
    [text] = folder.glob('*.after_optimizations.txt')
    [report] = folder.glob('*.after_optimizations-memory-usage-report.txt')
    compiled, arrays = hlo.Program(text.read_text()), _TOTAL.search(report.read_text())
  if compilation.compiled is not None:
    # Of arrays `memory_analysis` adds up those in the chip's caches, too.
    code = compilation.compiled.memory_analysis().generated_code_size_in_bytes
    return compiled, Memory(int(arrays[1]) + code, limit, True)
  peak = int(arrays[1]) + _CODE_BYTES
  fits = not compilation.is_refused and peak <= limit - _RESERVED_BYTES
  return compiled, Memory(peak, limit, fits)


class _Compilation:
  """The compilation of a program for TPUs, which leaves its HLO and a report on its arrays in a folder.

  Attributes:
    compiled: the `jax.stages.Compiled`; None until it is complete.
    is_refused: whether it does not fit.
  """

  def __init__(self, lowered, folder):
    self.compiled = self._error = None
    self.is_refused = False
    self._lowered = lowered
    self._folder = folder
    self._thread = threading.Thread(target=self._run, daemon=True)

  def _run(self):
    options = {'xla_dump_to': str(self._folder), 'xla_dump_hlo_as_text': True}
    try:
      self.compiled = self._lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      self._error = error

  def wait(self, to_the_end):
    """Waits until arrays have their places, or until code is generated for them."""
    self._thread.start()
    size = 0
    while self._thread.is_alive():
      self._thread.join(0.2)
      # The last file before code is generated; it is complete when its size does not grow any more.
      placed = list(self._folder.glob('*after_optimizations_after_buffer_assignment.txt'))
      before, size = size, placed[0].stat().st_size if placed else 0
      if size and size == before and not to_the_end:
        return
    if self._error is not None:
      # Before or after it has generated the code.
      self.is_refused = bool(re.search('RESOURCE_EXHAUSTED.* hbm', str(self._error), re.IGNORECASE))
      if not self.is_refused:
        raise self._error


def _peak(kept):
  return (
    kept.argument_size_in_bytes
    + kept.output_size_in_bytes
    - kept.alias_size_in_bytes
    + kept.temp_size_in_bytes
    + kept.generated_code_size_in_bytes
  )


def memory_limit(devices: Sequence[jax.Device]) -> float | None:
  """Returns the bytes that each of some devices has; None if that is not known."""
  chip = topologies.chip(devices[0].device_kind)
  return chip and chip.memory_bytes


def roofline(
  program: hlo.Program, devices: Sequence[jax.Device], model_flops: float, dtype: str
) -> Roofline:
  """Estimates the least time of a program.

  Args:
    program: as compiled, or a part of it.
    devices: all that it runs on.
    model_flops: what the model needs, on all of them.
    dtype: of the products.
  """
  found = collectives.of(program)
  between_slices, within_slice = (
    sum(each.count * each.sent_bytes for each in found if each.between_slices == between)
    for between in (True, False)
  )
  done, moved = work.flops(program), work.moved_bytes(program)
  kind = devices[0].device_kind
  peak, chip = flops.peak_flops(kind, dtype), topologies.chip(kind)

  def seconds(amount, per_second):
    return per_second and amount / per_second

  return Roofline(
    model_flops=model_flops / len(devices),
    flops=done,
    moved_bytes=moved,
    sent_bytes=within_slice,
    network_bytes=between_slices,
    collectives=found,
    peak_flops=peak,
    flops_seconds=seconds(done, peak),
    memory_seconds=seconds(moved, chip and chip.memory_bandwidth),
    link_seconds=seconds(within_slice, chip and chip.link_bandwidth),
    network_seconds=(
      seconds(between_slices, chip and chip.network_bandwidth) if between_slices else 0.0
    ),
  )
