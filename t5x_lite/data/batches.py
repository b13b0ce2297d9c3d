"""Batches of model features from any seqio task or mixture, and the exact position in them.

    config = DatasetConfig('my_task', {'inputs': 512, 'targets': 114}, 'train', batch_size=128,
                           shuffle=True, seed=42, pack=True)
    batches = train_batches(config)          # never ends
    state = batches.get_state()              # bytes, for the checkpoint
    batches.set_state(state)                 # the same batches follow again, in this process or another

Batch features are numpy int32 arrays under seqio's names: `encoder_input_tokens` [batch, inputs_length],
`decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights` [batch, targets_length], and when packed
`{encoder,decoder}_{segment_ids,positions}`. 0 is padding. For a model without an encoder, inputs and targets are one
sequence: the decoder's features have the length of both, only targets have a loss weight, and `decoder_causal_attention`
marks the inputs. Examples of targets alone have a weight for each token.
"""

import dataclasses
import io
import json
import os
import secrets
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from t5x_lite import choices, errors
from t5x_lite.data import (
  cached_tasks,
  chosen_objective,
  damaged_records,
  mixing,
  model_vocabulary,
  sources,
)

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """Which examples to read and how to lay them out.

  Attributes:
    mixture_or_task_name: a registered seqio task or mixture.
    task_feature_lengths: length of each task feature, EOS included; what is longer is trimmed. A model without an
      encoder may leave 'inputs' out where the task does not require them.
    split: 'train', 'validation', ...
    batch_size: examples (rows, when packed) in a batch, over all hosts.
    shuffle: whether training examples are shuffled; evaluation never is.
    seed: of shuffling and of random preprocessing. None draws one for training, and is 0 for evaluation.
    pack: whether several short examples share a row.
    use_cached: whether to read what `t5x-lite tasks cache` wrote, not the source.
  """

  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int]
  split: str = 'train'
  batch_size: int = 128
  shuffle: bool = True
  seed: int | None = None
  pack: bool = False
  use_cached: bool = False


def get_mixture_or_task(name: str) -> seqio.Task | seqio.Mixture:
  """The registered task or mixture; a UserError with the nearest names if there is none."""
  names = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name in names:
    return seqio.get_mixture_or_task(name)
  hint = errors.did_you_mean(name, names) or '; `t5x-lite tasks` lists them.'
  raise errors.UserError(
    f'no task or mixture is named {name!r}{hint} Your own are found with --module=your.module'
  )


def splits_of(mixture_or_task: seqio.Task | seqio.Mixture) -> list[str]:
  """Names of the splits, sorted; a UserError if the data that would tell is not there."""
  try:
    return sorted(mixture_or_task.splits)
  except ValueError as error:  # What seqio makes of a TFDS data set without files.
    raise errors.UserError(
      f'the data of {mixture_or_task.name!r} is not there ({error}): prepare it with '
      '`tfds build`, or set TFDS_DATA_DIR to the folder that holds it'
    ) from error


def output_features(mixture_or_task_name: str) -> Mapping[str, seqio.Feature]:
  """Features of a task or mixture, with their vocabularies.

  Args:
    mixture_or_task_name: a registered name; another raises UserError with the nearest names.

  Returns:
    seqio features by name, for example `inputs` and `targets`.
  """
  features = get_mixture_or_task(mixture_or_task_name).output_features
  return {
    name: dataclasses.replace(feature, vocabulary=model_vocabulary.resolved(feature.vocabulary))
    for name, feature in features.items()
  }


def train_batches(
  config: DatasetConfig,
  *,
  has_encoder: bool = True,
  stream: int = 0,
  num_streams: int = 1,
  drawn_seed: int | None = None,
  num_threads: int | None = None,
) -> 'BatchIterator':
  """Batches without end: epoch after epoch, shuffled and corrupted anew in each.

  Args:
    config: what to read; `batch_size` is divided over the streams.
    has_encoder: whether the model has one, see `T5Config.has_encoder`.
    stream: which share of the examples to read, see `hosts.streams`.
    num_streams: number of shares.
    drawn_seed: in place of `config.seed` where that is None; None draws one.
    num_threads: threads that read and preprocess examples; None leaves that to TensorFlow.

  Returns:
    A checkpointable iterator of this stream's rows.

  Raises:
    UserError: if the task, split or a feature length does not exist, or the batch does not divide.
  """
  _check(config, has_encoder, num_streams)
  task, current = get_mixture_or_task(config.mixture_or_task_name), choices.current()
  chosen_objective.check(task)
  mixing.check(task, current.mixing_maximum, current.mixing_temperature)
  return BatchIterator(
    config,
    has_encoder=has_encoder,
    stream=stream,
    num_streams=num_streams,
    drawn_seed=drawn_seed,
    num_threads=num_threads,
  )


def eval_batches(config: DatasetConfig, *, has_encoder: bool = True) -> Iterator[Batch]:
  """Each example of a split once, in a fixed order and with fixed random preprocessing.

  Args:
    config: what to read; `shuffle` is not used.
    has_encoder: whether the model has one.

  Returns:
    The batches. The last is filled with rows of zeros, whose loss weights are zero.

  Raises:
    UserError: as `train_batches`.
  """
  _check(config, has_encoder)
  dataset = _examples(config, has_encoder, shuffle=False, seed=config.seed or 0, num_epochs=1)
  iterator = _ClosedAtExit(dataset.batch(config.batch_size))

  def batches():
    for batch in iterator:
      missing = config.batch_size - len(batch['decoder_target_tokens'])
      yield {name: np.pad(rows, [(0, missing), (0, 0)]) for name, rows in batch.items()}

  return batches()


def feature_converter(has_encoder: bool, *, pack: bool) -> seqio.FeatureConverter:
  """What lays out the examples of a task for a model with or without an encoder."""
  converter = seqio.EncDecFeatureConverter if has_encoder else seqio.DecoderFeatureConverter
  return converter(pack=pack, use_custom_packing_ops=False)


def inputs_of(batch: Batch, inputs_length: int) -> np.ndarray:
  """The inputs alone, int32 [batch, inputs_length]; a UserError if several examples share a row."""
  if 'decoder_segment_ids' in batch:
    raise errors.UserError(
      'answers are decoded for one example a row, but these are packed: give pack=False'
    )
  if 'encoder_input_tokens' in batch:
    return batch['encoder_input_tokens']
  # Position i reads token i - 1, and the last position that is marked reads the last input.
  is_input = batch['decoder_causal_attention'][:, 1 : inputs_length + 1]
  return batch['decoder_target_tokens'][:, :inputs_length] * is_input


def of_tokens(inputs, targets, has_encoder: bool) -> Batch:
  """Makes a batch, not packed, of which each row has one example.

  Args:
    inputs: int32 [batch, inputs_length], of numpy or of jax; 0 is padding, after a row's tokens.
    targets: int32 [batch, targets_length], likewise.
    has_encoder: whether the model has one, see `T5Config.has_encoder`.

  Returns:
    The features that the converter of such models gives, but for those of packing.
  """
  batch = {}
  xp = inputs.__array_namespace__()
  weights = (targets > 0).astype(xp.int32)
  if has_encoder:
    batch['encoder_input_tokens'] = inputs
  else:
    # Targets come right after a row's inputs.
    column = xp.arange(inputs.shape[1] + targets.shape[1])
    place = column - xp.count_nonzero(inputs, axis=1)[:, None]
    padded = xp.pad(xp.concatenate([inputs, targets], axis=1), [(0, 0), (0, 1)])
    of_targets = xp.where(place < targets.shape[1], inputs.shape[1] + place, column.size)
    targets = xp.take_along_axis(padded, xp.where(place < 0, column, of_targets), axis=1)
    weights = ((place >= 0) & (targets > 0)).astype(xp.int32)
    batch['decoder_causal_attention'] = ((place <= 0) & (targets > 0)).astype(xp.int32)
  return batch | {
    'decoder_target_tokens': targets,
    'decoder_input_tokens': xp.pad(targets, [(0, 0), (1, 0)])[:, :-1],
    'decoder_loss_weights': weights,
  }


class BatchIterator:
  """Iterator of training batches whose position can be saved and found again, exactly."""

  def __init__(
    self,
    config: DatasetConfig,
    *,
    has_encoder: bool,
    stream: int,
    num_streams: int,
    drawn_seed: int | None = None,
    num_threads: int | None = None,
  ):
    self._config = config
    self._has_encoder = has_encoder
    self._stream = stream
    self._num_streams = num_streams
    self._num_threads = num_threads
    self._caches = {}
    if config.use_cached:
      task = get_mixture_or_task(config.mixture_or_task_name)
      self._caches['caches'] = cached_tasks.describe(task, config.split)
    # Drawn here and kept with the position: resuming needs the seed that the run began with.
    seed = drawn_seed if config.seed is None else config.seed
    self._start(draw_seed() if seed is None else seed)

  def _start(self, seed):
    self._seed = seed
    dataset = _examples(
      self._config,
      self._has_encoder,
      shuffle=self._config.shuffle,
      seed=seed,
      num_epochs=None,
      shard_info=seqio.ShardInfo(self._stream, self._num_streams),
    )
    dataset = dataset.batch(self._config.batch_size // self._num_streams, drop_remainder=True)
    self._iterator = _ClosedAtExit(dataset, self._num_threads)

  def __iter__(self) -> 'BatchIterator':
    return self

  def __next__(self) -> Batch:
    return next(self._iterator)

  def get_state(self) -> bytes:
    """The position after the batch returned last, random state and half-filled rows included.

    Raises:
      UserError: what was read ahead has more damaged records than may be left out, in which case
        earlier positions are still those of a file that may be mended.
    """
    files = self._iterator.save()
    damaged_records.check()
    header = {
      'stream': self._description(),
      'seed': self._seed,
      'left_out': damaged_records.left_out(),
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
      archive.writestr('header.json', json.dumps(header))
      for name, content in files.items():
        archive.writestr(name, content)
    return data.getvalue()

  def set_state(self, state: bytes) -> None:
    """Continues after the batch that was the last before `get_state` returned `state`.

    Args:
      state: from an iterator of the same configuration and stream.

    Raises:
      UserError: if the configuration differs, naming both sides.
    """
    with zipfile.ZipFile(io.BytesIO(state)) as archive:
      files = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(files.pop('header.json'))
    saved = _chosen(choices.Choices()) | header['stream']
    for name, value in self._description().items():
      if saved.get(name) != value:
        raise errors.UserError(
          f'the saved position in the data is one of {name}={saved.get(name)}, but this run has '
          f'{name}={value}: give the same, or start from INITIAL_CHECKPOINT_PATH in a new MODEL_DIR'
        )
    if header['seed'] != self._seed:
      self._start(header['seed'])
    damaged_records.begin(header.get('left_out', {}) | damaged_records.left_out())
    try:
      self._iterator.restore(files)
    except (tf.errors.OpError, AssertionError) as error:
      raise errors.UserError(
        'the saved position in the data is one of another version of t5x-lite or TensorFlow: go on '
        f'with that one, or start from INITIAL_CHECKPOINT_PATH in a new MODEL_DIR ({type(error).__name__})'
      ) from error

  def _description(self):
    """What must be the same for a saved position to mean the same; JSON-able."""
    config = dataclasses.asdict(self._config) | {
      'task_feature_lengths': dict(sorted(self._config.task_feature_lengths.items())),
      **_chosen(choices.current()),
    }
    if config['seed'] is None:
      del config['seed']  # Then the seed is the saved one.
    return config | self._caches


def draw_seed() -> int:
  """Returns a random seed for the order of the data."""
  return secrets.randbits(31)


def _chosen(current):
  """What was chosen that the examples depend on; JSON-able."""
  names = ('objective', 'objective_settings', 'mixing_maximum', 'mixing_temperature')
  return {name: getattr(current, name) for name in names}


class _ClosedAtExit:
  """Iterator of a dataset's elements as numpy arrays, ended before the interpreter is.

  Threads of tf.data that still parse lines in Python while the interpreter shuts down would block it for ever.
  """

  def __init__(self, dataset, num_threads=None):
    options = tf.data.Options()
    if num_threads is not None:
      options.threading.private_threadpool_size = num_threads
      options.threading.max_intra_op_parallelism = 1
    # Parsing lines in Python counts as state that a checkpoint cannot hold; our parsing has none.
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    self._held = {'iterator': iter(dataset.with_options(options))}
    weakref.finalize(self, self._held.clear)

  def __iter__(self):
    return self

  def __next__(self):
    with sources.readable_errors():
      element = next(self._held['iterator'])
    return {name: value.numpy() for name, value in element.items()}

  def save(self):
    """Position of the iterator, as the content of the files that TensorFlow writes."""
    with tempfile.TemporaryDirectory() as directory:
      tf.train.Checkpoint(**self._held).write(os.path.join(directory, 'iterator'))
      files = {}
      for entry in os.scandir(directory):
        with open(entry.path, 'rb') as file:
          files[entry.name] = file.read()
      return files

  def restore(self, files):
    with tempfile.TemporaryDirectory() as directory:
      for name, content in files.items():
        with open(os.path.join(directory, os.path.basename(name)), 'wb') as file:
          file.write(content)
      path = os.path.join(directory, 'iterator')
      tf.train.Checkpoint(**self._held).read(path).assert_consumed()


def _check(config, has_encoder, num_streams=1):
  """Refuses a configuration that seqio would fail on later, or in other words."""
  task = get_mixture_or_task(config.mixture_or_task_name)
  splits = splits_of(task)
  if config.split not in splits:
    raise errors.UserError(
      f'{config.mixture_or_task_name!r} has no split {config.split!r}, only '
      f'{", ".join(map(repr, splits))}'
    )
  if 'inputs' not in task.output_features and (
    has_encoder or 'inputs' in config.task_feature_lengths
  ):
    raise errors.UserError(
      f'{config.mixture_or_task_name!r} has features {sorted(task.output_features)}, '
      + (
        "but a model with an encoder needs 'inputs': train a language model on it"
        if has_encoder
        else "but TASK_FEATURE_LENGTHS has a length for 'inputs': leave that out"
      )
    )
  for name, feature in task.output_features.items():
    may_lack = not has_encoder and name == 'inputs' and not feature.required
    if name not in config.task_feature_lengths and not may_lack:
      raise errors.UserError(
        f'{config.mixture_or_task_name!r} has features {sorted(task.output_features)}, but lengths are given for '
        f'{sorted(config.task_feature_lengths)}: add {name!r} to TASK_FEATURE_LENGTHS'
      )
  if config.batch_size < 1 or config.batch_size % num_streams:
    raise errors.UserError(
      f'BATCH_SIZE={config.batch_size} is not divisible by the {num_streams} streams of data'
    )
  _check_caches(task, config.use_cached)


def _check_caches(task, use_cached):
  cached_tasks.search_cache_directory()
  subtasks = seqio.get_subtasks(task)
  if use_cached and not any(subtask.supports_caching for subtask in subtasks):
    raise errors.UserError(f'USE_CACHED=True, but {cached_tasks.cannot_be_cached(task)}')
  for subtask in subtasks:
    if use_cached and subtask.supports_caching and not subtask.cache_dir:
      raise errors.UserError(
        f'USE_CACHED=True, but no cache of {subtask.name!r} is found in {cached_tasks.cache_directory()}: '
        f'make it with `t5x-lite tasks cache {task.name}`, give its --cache_dir, or set it to False'
      )
    if use_cached and subtask.supports_caching:
      cached_tasks.check_vocabularies(subtask)
    if subtask.requires_caching and not use_cached:
      raise errors.UserError(f'{subtask.name!r} is to be read from its cache: give USE_CACHED=True')


def _examples(config, has_encoder, *, shuffle, seed, num_epochs, shard_info=None):
  """Dataset of single examples, converted to model features."""
  lengths = {
    name: config.task_feature_lengths[name]
    for name in output_features(config.mixture_or_task_name)
    if name in config.task_feature_lengths
  }
  mixture_or_task = get_mixture_or_task(config.mixture_or_task_name)
  if config.use_cached and shuffle:
    mixture_or_task = cached_tasks.reading_caches(mixture_or_task, config.split, lengths)
  # As seqio.get_dataset, except for one argument: rows that seqio caches in memory would be saved with every
  # position, and would come in the order of the first epoch in all the others.
  with sources.quiet():
    dataset = sources.without_autograph(
      mixture_or_task.get_dataset,
      sequence_length=lengths,
      split=config.split,
      use_cached=any(
        config.use_cached and subtask.supports_caching
        for subtask in seqio.get_subtasks(mixture_or_task)
      ),
      shuffle=shuffle,
      seed=seed,
      shard_info=shard_info,
      num_epochs=num_epochs,
      try_in_mem_cache=False,
    )
  # Texts and labels that tasks pass on for evaluation end here; the converter would warn of each.
  dataset = dataset.map(
    lambda example: {name: example[name] for name in lengths if name in example},
    num_parallel_calls=tf.data.AUTOTUNE,
  )
  if missing := sorted(lengths.keys() - dataset.element_spec.keys()):
    raise errors.UserError(
      f'the examples of {config.mixture_or_task_name!r} have no {", ".join(missing)}'
      + (
        ', which a model with an encoder needs'
        if has_encoder
        else ': leave that out of TASK_FEATURE_LENGTHS'
      )
    )
  converter = feature_converter(has_encoder, pack=config.pack)
  if config.pack:  # Which seqio has written for AutoGraph.
    return converter(dataset, task_feature_lengths=lengths)
  return sources.without_autograph(converter, dataset, task_feature_lengths=lengths)
