"""What a search tries next, by times and memory that are made up."""

import types

import pytest

from t5x_lite.planning import estimate, search

BEGUN = search.Beginning([(1, 8, 1), (1, 4, 2), (2, 2, 2), (1, 1, 8)], {}, (1, 1, 1))


@pytest.fixture
def tried(monkeypatch):
  """All that a search of at most 30 tries, where the residual divided on 1 x 4 x 2 is fastest and 'none' does not fit."""

  def measure(step, candidate, dcn, exact):
    del step, dcn, exact
    fits = candidate.remat_policy != 'none'
    seconds = 3.0 - (candidate.ici == (1, 4, 2)) - candidate.divides_residual
    seconds += search.POLICIES.index(candidate.remat_policy) / 10
    memory = estimate.Memory(peak=1e9 if fits else 3e9, limit=2e9, fits=fits)
    times = types.SimpleNamespace(seconds=seconds, serial_seconds=seconds)
    return search.Tried(candidate, memory, 1e8, 8, times if fits else None)

  monkeypatch.setattr(search, '_try', measure)
  return list(search.run(types.SimpleNamespace(topology=None), BEGUN, 30))


def test_the_residual_is_divided_where_that_is_another_way_and_computed_right(tried):
  first, *_ = search.fastest(tried)
  assert first.candidate == search.Candidate((1, 4, 2), 'minimal', divides_residual=True)
  divided = [each.candidate for each in tried if each.candidate.divides_residual]
  assert {each.remat_policy for each in divided if each.ici == (1, 4, 2)} == set(search.POLICIES)
  assert all(each.ici[2] > 1 and each.ici != (2, 2, 2) for each in divided)
  assert "'--gin.MeshConfig.rules=@sharding.divided_residual()'" in first.candidate.flags((1, 1, 1))
  assert 'rules' not in tried[0].candidate.flags((1, 1, 1))


def test_nothing_is_tried_twice_and_all_meshes_are(tried):
  candidates = [each.candidate for each in tried]
  assert len(set(candidates)) == len(candidates)
  assert {each.ici for each in candidates} == set(BEGUN.shapes)
  assert [each.remat_policy for each in candidates[:5]] == list(search.POLICIES)
