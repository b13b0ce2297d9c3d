"""Where a token stands: T5's bucketed relative position bias."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np


def relative_position_bucket(relative_position, *, bidirectional, num_buckets, max_distance):
  """Maps distances to the rows of a relative position table (Raffel et al. 2020, section 2.1).

  Half of the buckets of a direction hold one distance each; the others grow logarithmically
  up to `max_distance`, and everything farther shares the last one.

  Args:
    relative_position: int array, key position - query position.
    bidirectional: give keys ahead of the query buckets of their own; otherwise they share
      bucket 0, as a causal mask hides them anyway.
    num_buckets: rows of the table.
    max_distance: distance at which the last bucket begins.

  Returns:
    int32 array of the same shape, in [0, num_buckets).
  """
  distance = -relative_position
  offset = 0
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(distance < 0, num_buckets, 0)
    distance = jnp.abs(distance)
  distance = jnp.clip(distance, 0, max_distance)
  return offset + jnp.asarray(_buckets_of_distances(num_buckets, max_distance))[distance]


def _buckets_of_distances(num_buckets, max_distance):
  """Returns the buckets of the distances 0 to `max_distance` in one direction, int32.

  They are counted on the host: some distances lie right on the edge of a logarithmic bucket,
  and the logarithms of accelerators differ in the last bit.
  """
  distance = np.arange(max_distance + 1)
  exact = num_buckets // 2
  epsilon = np.finfo(np.float32).eps
  log_ratio = np.log(distance / exact + epsilon) / np.log(max_distance / exact)
  logarithmic = exact + (log_ratio * (num_buckets - exact)).astype(np.int32)
  bucket = np.where(distance < exact, distance, np.minimum(logarithmic, num_buckets - 1))
  return bucket.astype(np.int32)


class RelativePositionBias(nn.Module):
  """The learned bias that all layers of one stack add to their attention logits."""

  num_heads: int
  num_buckets: int
  max_distance: int
  bidirectional: bool

  def setup(self):
    init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
    self.rel_embedding = self.param(
      'rel_embedding',
      nn.with_logical_partitioning(init, ('heads', 'relpos_buckets')),
      (self.num_heads, self.num_buckets),
      jnp.float32,
    )

  def _values(self, relative_position):
    """Looks up `relative_position [n]`; returns [heads, n] float32."""
    bucket = relative_position_bucket(
      relative_position,
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    return jnp.take(self.rel_embedding, bucket, axis=1)

  def __call__(self, query_length, key_length):
    """Returns [1, heads, query_length, key_length] float32.

    The bias depends on key - query alone, so only one value per distance is looked up. A row
    of them, repeated for every query and read back in rows one element shorter, shifts by one
    from query to query. The gradient is then a sum, not a scatter over all pairs.
    """
    period = query_length + key_length
    column = jnp.arange(period)
    values = self._values(jnp.where(column < key_length, column, column - period))
    rows = jnp.broadcast_to(values[:, None, :], (self.num_heads, query_length, period))
    flat = rows.reshape(self.num_heads, query_length * period)
    shifted = flat[:, : query_length * (period - 1)]
    shifted = shifted.reshape(self.num_heads, query_length, period - 1)
    return shifted[None, :, :, :key_length]

  def at(self, query_position, key_length):
    """Returns [1, heads, 1, key_length] float32 for one query at a traced position."""
    return self._values(jnp.arange(key_length) - query_position)[None, :, None, :]
