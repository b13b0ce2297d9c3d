"""The commands of docs/scaling.md, as they stand there."""

import importlib.util

import pytest
from pages import blocks, scripts

PAGE = 'docs/scaling.md'


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason="needs pip install 't5x_lite[tpu]'"
)
def test_what_the_page_plans_does_not_fit_as_it_says(shell):
  script, expected = scripts(PAGE)[0], blocks(PAGE, 'text')[0]
  out = shell(f'! {script}')
  # Another version of the compiler needs another amount.
  without_numbers = [line.split('  ')[:2] for line in expected.splitlines()]
  printed = [line.split('  ')[:2] for line in out.splitlines()]
  assert printed[-len(without_numbers) :] == without_numbers
