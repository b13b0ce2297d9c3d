"""A SavedModel that takes and returns texts: programs in TensorFlow, which tokenizes for them.

`jax.experimental.jax2tf` wrote such models and is gone in jax 0.12. The operation that it used,
XlaCallModule, is TensorFlow's own and runs StableHLO. The signatures are

  serving_default: inputs string [n] to predictions string [n, answers] and scores float32
    [n, answers], the best first; where there are fewer answers, the last are '' and minus infinity.
  score: inputs and targets, string [n] each, to scores float32 [n].
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo
from tensorflow.compiler.tf2xla.python import xla

from t5x_lite import errors
from t5x_lite.exporting import programs as exported_programs

# TensorFlow 2.21 reads up to 1.13.7, and jax may write a newer one.
STABLEHLO_VERSION = '1.13.0'
VERSIONS = {'tensorflow': tf.__version__, 'stablehlo': STABLEHLO_VERSION}


def write(
  folder,
  programs: Sequence[exported_programs.Program],
  weights: Mapping[str, np.ndarray],
  vocabulary: seqio.Vocabulary,
  manifest: Mapping[str, Any],
):
  """Writes the model into an empty folder.

  Args:
    folder: the folder.
    programs: 'predict' and 'score'.
    weights: by name.
    vocabulary: of pieces or bytes.
    manifest: see `artifact`; 'lengths', 'add_eos' and 'cut' are what counts here.

  Raises:
    UserError: the vocabulary knows no texts.
  """
  texts = _texts_of(vocabulary)
  # In the order in which jax takes what a dict holds.
  variables = [tf.Variable(weights[name], trainable=False, name=name) for name in sorted(weights)]
  run = functools.partial(_run, programs, variables)
  text = tf.TensorSpec([None], tf.string)

  tokens = functools.partial(_tokens, texts, manifest)

  @tf.function(input_signature=[text], autograph=False)
  def predict(inputs):
    numbers = tf.range(tf.shape(inputs)[0])
    ids, scores = run('predict', tokens('inputs', inputs), numbers)
    # What comes after EOS is no part of the text.
    has_ended = tf.cumsum(tf.cast(ids == vocabulary.eos_id, tf.int32), axis=-1, exclusive=True) > 0
    rows = tf.reshape(tf.where(has_ended, 0, ids), [-1, ids.shape[-1]])
    return {'predictions': tf.reshape(texts.decode(rows), tf.shape(scores)), 'scores': scores}

  @tf.function(input_signature=[text, text], autograph=False)
  def score(inputs, targets):
    [scores] = run('score', tokens('inputs', inputs), tokens('targets', targets))
    return {'scores': scores}

  model = tf.Module()
  model.variables_and_tokenizer = [variables, texts.tokenizer]  # To be saved.
  signatures = {'serving_default': predict, 'score': score}
  tf.saved_model.save(model, str(folder), signatures=signatures)


def _run(programs, variables, name, *rows):
  """Returns what the programs of a name make of n rows, padded to as many as they are for."""
  n = tf.shape(rows[0])[0]
  programs = [program for program in programs if program.name == name]
  sizes = [program.batch_size for program in programs]
  if sizes == [None]:
    return _call(programs[0].exported, variables, tf.maximum(n, 1), rows)
  most = tf.debugging.assert_less_equal(
    n, sizes[-1], f'this model was exported for at most {sizes[-1]} rows at a time'
  )
  with tf.control_dependencies([most]):
    which = tf.searchsorted(sizes, [n])[0]  # The smallest that holds them.
  return tf.switch_case(
    which, [functools.partial(_call, p.exported, variables, p.batch_size, rows) for p in programs]
  )


def _call(exported, variables, size, rows):
  """Returns what a program makes of rows, padded to so many."""
  n = tf.shape(rows[0])[0]
  rows = [tf.pad(each, [[0, size - n]] + [[0, 0]] * (len(each.shape) - 1)) for each in rows]
  arguments = [*variables, *rows]
  results = xla.call_module(
    [arguments[i] for i in exported.module_kept_var_idx],
    version=exported.calling_convention_version,
    module=_for_tensorflow(exported),
    Tout=[tf.as_dtype(x.dtype) for x in exported.out_avals],
    Sout=[(None, *x.shape[1:]) for x in exported.out_avals],
    platforms=[platform.upper() for platform in exported.platforms],
  )
  return [each[:n] for each in results]


def _for_tensorflow(exported):
  """Returns the StableHLO of a program in the version that TensorFlow reads, as bytes."""
  stablehlo.register_stablehlo_passes()
  with ir.Context() as context:
    stablehlo.register_dialect(context)
    module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
    # Of batches of any size, TensorFlow finds out no shapes within a composite, such as top_k.
    passes = 'builtin.module(func.func(stablehlo-legalize-composite-to-call))'
    passmanager.PassManager.parse(passes).run(module.operation)
    return stablehlo.serialize_portable_artifact_str(str(module), STABLEHLO_VERSION)


@dataclasses.dataclass(frozen=True)
class _Texts:
  """How texts become ids, and ids texts.

  Attributes:
    encode: function from strings [n] to ragged int32 [n, (ids)].
    decode: function from int32 [n, length], 0 after EOS, to strings [n].
    tokenizer: what both use; None for nothing.
  """

  encode: Callable
  decode: Callable
  tokenizer: Any = None


def _texts_of(vocabulary):
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    tokenizer = vocabulary.tf_tokenizer

    def decode(ids):
      # A model may have more ids than there are pieces.
      return tokenizer.detokenize(tf.where(ids < vocabulary.vocab_size, ids, vocabulary.unk_id))

    return _Texts(tokenizer.tokenize, decode, tokenizer)
  if isinstance(vocabulary, seqio.ByteVocabulary):
    ragged = tf.RaggedTensorSpec([None], tf.int32)
    encode = functools.partial(tf.map_fn, vocabulary.encode_tf, fn_output_signature=ragged)
    return _Texts(encode, vocabulary.decode_tf)
  raise errors.UserError(
    f"FORMAT='tensorflow' takes texts, of which a {type(vocabulary).__name__} makes no tokens: "
    "export with FORMAT='jax'"
  )


def _tokens(texts, manifest, feature, strings):
  """Returns int32 [n, length] of strings [n]; one without any token is a row of zeros."""
  length, add_eos = manifest['lengths'][feature], manifest['add_eos'][feature]
  most = length - add_eos
  ids = texts.encode(strings)
  if not manifest['cut'][feature]:
    message = f'{feature} of more tokens than {length}, which are the most'
    tf.debugging.assert_less_equal(ids.row_lengths(), tf.constant(most, tf.int64), message)
  ids = ids[:, :most]
  tokens = ids.to_tensor(shape=[None, length])
  if add_eos:
    lengths = ids.row_lengths()
    place = tf.where(lengths > 0, lengths, -1)
    tokens += tf.one_hot(place, length, on_value=manifest['eos_id'], dtype=tf.int32)
  return tokens
