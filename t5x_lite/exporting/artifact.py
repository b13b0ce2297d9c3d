"""Folders with all that it takes to ask a model where t5x_lite is not: programs, weights, vocabulary.

One for jax has

  predict.jax_export, score.jax_export: a `programs.Program` each, for all platforms; where batches
    have sizes, predict-8.jax_export and so on.
  weights.npz: the parameters, in the dtypes they are computed with.
  sentencepiece.model: the vocabulary with its sentinels, where it is one of SentencePiece.
  loader.py: asks it in token ids.
  texts.py: makes ids of texts, where the vocabulary does.
  packages: flatbuffers, with which jax reads its programs, but which it does not require.

One for TensorFlow is a SavedModel, see `saved_model`. Both have

  manifest.json: which model it is and how it decodes, the versions it was made with, and the size
    and SHA-256 of each file.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping

import flatbuffers
import jax
import numpy as np

import t5x_lite
from t5x_lite import errors
from t5x_lite.checkpoints import folders, layout
from t5x_lite.data import vocabulary as vocabularies
from t5x_lite.decoding import options
from t5x_lite.evaluation import runs
from t5x_lite.exporting import programs, saved_model


def write(
  folder,
  run: runs.Run,
  *,
  lengths: Mapping[str, int],
  decoding: options.DecodingConfig,
  targets: programs.Targets,
  file_format: str,
  cut_long_inputs: bool,
):
  """Writes a folder, which appears complete or not at all.

  Args:
    folder: must not exist, or be empty.
    run: the run; its newest checkpoint is exported.
    lengths: the most tokens of 'inputs' and 'targets'.
    decoding: how `predict` decodes.
    targets: what the programs are made for.
    file_format: 'jax' or 'tensorflow'.
    cut_long_inputs: whether texts with more tokens are cut, and not refused.

  Raises:
    UserError: the folder is there, or the model cannot be exported so.
  """
  if file_format not in ('jax', 'tensorflow'):
    raise errors.UserError(f"FORMAT={file_format!r} is neither 'jax' nor 'tensorflow'")
  vocabulary = run.load_vocabulary()
  decoder = decoding.resolve(vocabulary, lengths['targets'])
  fingerprint = vocabularies.fingerprint(vocabulary)
  manifest = {
    'format': file_format,
    'versions': {'t5x_lite': t5x_lite.__version__, 'jax': jax.__version__},
    'run': str(run.folder),
    'step': run.steps[-1],
    'platforms': list(targets.platforms),
    'batch_sizes': targets.sorted_sizes,
    'lengths': {name: lengths[name] for name in ('inputs', 'targets')},
    'cut': {'inputs': cut_long_inputs, 'targets': False},
    'add_eos': {'inputs': run.inputs_end_in_eos, 'targets': True},
    'eos_id': vocabulary.eos_id,
    'vocabulary': fingerprint,
    'decoding': dataclasses.asdict(decoding),
    'model': dataclasses.asdict(run.config),
    'weights': run.weights or 'float32',
  }
  with folders.new(folder) as unfinished:
    params = programs.read(run.newest, run.config.dtype, run.weights)
    made = programs.make(run.config, decoder, lengths, params, targets)
    weights = layout.flatten(params)
    if file_format == 'jax':
      _write_for_jax(unfinished, made, weights, vocabulary, fingerprint['type'])
    else:
      manifest['versions'] |= saved_model.VERSIONS
      saved_model.write(unfinished, made, weights, vocabulary, manifest)
    manifest['files'] = {
      str(path.relative_to(unfinished)): _of_file(path)
      for path in sorted(unfinished.rglob('*'))
      if path.is_file()
    }
    content = json.dumps(manifest, indent=2, default=_name_of)
    (unfinished / 'manifest.json').write_text(content + '\n', encoding='utf-8')


def _write_for_jax(folder, made, weights, vocabulary, kind):
  for program in made:
    size = '' if program.batch_size is None else f'-{program.batch_size}'
    path = folder / f'{program.name}{size}.jax_export'
    path.write_bytes(program.exported.serialize())
  np.savez(folder / 'weights.npz', **weights)
  package = pathlib.Path(flatbuffers.__file__).parent
  without = shutil.ignore_patterns('__pycache__')
  shutil.copytree(package, folder / 'packages' / package.name, ignore=without)
  here = pathlib.Path(__file__).parent
  shutil.copyfile(here / 'loader.py', folder / 'loader.py')
  if kind in ('sentencepiece', 'bytes'):
    shutil.copyfile(here / 'texts.py', folder / 'texts.py')
  if kind == 'sentencepiece':
    (folder / 'sentencepiece.model').write_bytes(vocabulary.sp_model)


def _of_file(path):
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return {'bytes': path.stat().st_size, 'sha256': digest}


def _name_of(transform):
  """What JSON has in place of a user's function."""
  return getattr(transform, '__qualname__', repr(transform))
