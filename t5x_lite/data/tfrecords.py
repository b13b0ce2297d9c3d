"""TFRecords of a cached task, read so that a damaged record is named and may be left out.

TensorFlow's data set of TFRecords says at which byte a record is damaged, but not of which file, and
goes on with the next file. Here the place in a file is a number that a saved position holds.
"""

import os
import struct

import numpy as np
import seqio
import tensorflow as tf
from tensorflow.python.lib.io import tf_record  # Of all readers only this one finds a byte again.

from t5x_lite.data import sources

# Read by one call.
_RECORDS_AT_ONCE = 64
# Of the length of a record, before it, and of its checksum, after it.
_HEADER_BYTES, _FOOTER_BYTES = 12, 4


class TFRecordDataSource(seqio.FileDataSource):
  """The cached examples of one split, file by file, as seqio reads them."""

  def __init__(self, file_pattern: str, split: str, parse, file_shuffle_buffer_size: int | None):
    """Names the files.

    Args:
      file_pattern: of the split's files.
      split: the split.
      parse: makes an example of a record, in TensorFlow's graph.
      file_shuffle_buffer_size: see `seqio.FileDataSource`.
    """
    super().__init__(
      read_file_fn=lambda file: _records(file).map(parse),
      split_to_filepattern={split: file_pattern},
      file_shuffle_buffer_size=file_shuffle_buffer_size,
    )


def _records(file):
  """One file (a scalar string tensor) as a dataset of its records."""

  def read(byte, _):
    byte, records = tf.numpy_function(_read, [file, byte], [tf.int64, tf.string])
    return tf.ensure_shape(byte, []), tf.ensure_shape(records, [None])

  chunks = tf.data.Dataset.range(2**62).scan(tf.constant(0, tf.int64), read)
  chunks = chunks.take_while(lambda records: tf.size(records) > 0)
  return chunks.flat_map(tf.data.Dataset.from_tensor_slices)


def _read(file, byte):
  """Some records from a byte on, and the byte after them; none at the end of the file."""
  file, byte = file.decode(), int(byte)
  reader = tf_record.tf_record_random_reader(file)
  records = []
  while len(records) < _RECORDS_AT_ONCE:
    try:
      record, byte = reader.read(byte)
      records.append(record)
    except IndexError:  # The end.
      break
    except tf.errors.DataLossError as error:
      following = _following(file, reader, byte)
      what = 'the record' if following else 'the rest of the file'
      message = str(error).partition('\n')[0]
      sources.leave_out_in_graph(f'{file}, byte {byte}', f'{what} is damaged ({message})')
      if following is None:
        break
      byte = following
  # As objects, since an array of bytes would lose trailing zeros.
  return np.int64(byte), np.array(records, dtype=object)


def _following(file, reader, byte):
  """Where the record after a damaged one begins; None if its length is damaged, too."""
  size = os.path.getsize(file)
  with open(file, 'rb') as opened:
    following = _end(opened, byte)
    if following is None or following > size:
      return None
    try:
      reader.read(following)
      return following
    except (IndexError, tf.errors.DataLossError):  # That the next is damaged may be chance.
      end = following
      while end is not None and end < size:
        end = _end(opened, end)
      return following if end == size else None


def _end(opened, byte):
  """The byte after the record that begins at one, as its length says."""
  opened.seek(byte)
  header = opened.read(_HEADER_BYTES)
  if len(header) < _HEADER_BYTES:
    return None
  (length,) = struct.unpack_from('<Q', header)
  return byte + _HEADER_BYTES + length + _FOOTER_BYTES
