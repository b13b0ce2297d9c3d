"""Inputs of like length together."""

import pytest

from t5x_lite.evaluation import buckets


@pytest.mark.parametrize(
  'length, longest, padded',
  [(1, 512, 32), (32, 512, 32), (33, 512, 64), (300, 512, 512), (60, 60, 60), (5, 20, 20)],
)
def test_lengths_are_padded_to_powers_of_two(length, longest, padded):
  assert buckets.bucket(length, longest) == padded


def test_rows_of_like_length_share_a_batch():
  lengths = [40, 3, 100, 2, 50, 3]
  mixed = list(buckets.batches(lengths, 2, 128, mixed=True))
  assert mixed == [([3, 1], 32), ([5, 0], 64), ([4, 2], 128)]
  assert list(buckets.batches([], 2, 128, mixed=True)) == []


def test_rows_are_padded_for_themselves_alone_if_they_may_not_mix():
  lengths = [40, 3, 100, 2, 50, 3]
  apart = list(buckets.batches(lengths, 2, 128, mixed=False))
  assert apart == [([3, 1], 32), ([5], 32), ([0, 4], 64), ([2], 128)]
