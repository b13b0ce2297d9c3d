"""The part of docs/scaling.md on memory and precision: its commands, and figures of its tables."""

import importlib.util
import re

import pytest
from pages import ALONE, ROOT, scripts

from t5x_lite.models.config import REMAT_NAMES

PAGE = 'docs/scaling.md'
PART = (ROOT / PAGE).read_text(encoding='utf-8').split('## Memory and precision\n')[1]
PLAN, TRAIN = (script for script in scripts(PAGE) if script in PART)


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason="needs pip install 't5x_lite[tpu]'"
)
def test_what_the_page_plans_takes_what_its_table_says(shell):
  names = re.search(r'REMAT_POLICY="(.*)"', PLAN)[1].replace(' ', '')
  [expected] = re.findall(rf'{re.escape(names)}"` \| ([\d.]+) ', PART)
  [peak] = re.findall(r'^  peak +([\d.]+)$', shell(f'{ALONE}\n! {PLAN}'), re.MULTILINE)
  assert float(peak) == pytest.approx(float(expected), rel=0.05)  # Compilers differ.


@pytest.mark.slow
def test_a_run_with_all_that_saves_memory_trains(shell, folder):
  shell(TRAIN)
  run = folder / 'my_small_run'
  assert len((run / 'metrics' / 'train.jsonl').read_text().splitlines()) == 4
  config = (run / 'config.gin').read_text()
  for setting in ("mu_dtype = 'bfloat16'", "MATMUL_DTYPE = 'float8'", '@sharding.zero1()'):
    assert setting in config


def test_the_page_has_every_name_that_may_be_kept():
  assert all(f'`{name}`' in PART for name in REMAT_NAMES)
