"""Paths and mirrors, without any service; tests/commands/test_runs_in_a_bucket.py has the services."""

import importlib.util

import pytest

from t5x_lite import errors, remote


def test_a_path_of_this_machine_becomes_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path / 'elsewhere'))
  assert str(remote.path('runs/mine')) == f'{tmp_path}/runs/mine'
  assert str(remote.path('~/mine')) == f'{tmp_path}/elsewhere/mine'
  assert remote.local('runs/mine') == tmp_path / 'runs' / 'mine'


@pytest.mark.parametrize('path', ['gs://bucket/run', 's3://bucket/run'])
def test_a_package_that_is_missing_is_named_with_its_extra(path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.UserError, match=rf"pip install 't5x_lite\[{path[:2]}\]'"):
    remote.path(path)


def test_a_run_of_this_machine_is_its_own_mirror(tmp_path):
  mirror = remote.Mirror(tmp_path)
  assert mirror.folder == tmp_path
  mirror.push()
  assert not list(tmp_path.iterdir())
