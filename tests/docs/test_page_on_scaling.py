"""The commands of docs/scaling.md, as they stand there."""

import importlib.util
import re

import pytest
from pages import ALONE, blocks, scripts

PAGE = 'docs/scaling.md'


pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="needs pip install 't5x_lite[tpu]'"
  ),
]


def test_what_the_page_plans_does_not_fit_as_it_says(shell):
  script, expected = scripts(PAGE)[0], blocks(PAGE, 'text')[0]
  out = shell(f'{ALONE}\n! {script}')
  # Another version of the compiler needs another amount.
  without_numbers = [line.split('  ')[:2] for line in expected.splitlines()]
  printed = [line.split('  ')[:2] for line in out.splitlines()]
  assert printed[-len(without_numbers) :] == without_numbers


@pytest.mark.parametrize(
  'index, line',
  [
    (1, r'  cache of keys and values +[\d.]+'),
    (2, r'  between slices +[\d.,]+ MiB +[\d.]+ ms'),
    (3, r'left out .*\nmesh +remat'),
  ],
)
def test_the_other_plans_of_the_page_come_to_what_it_says(shell, index, line):
  script = scripts(PAGE)[index].replace('--search=16', '--search=1 || [ $? = 1 ]')
  assert re.search(f'^{line}', shell(f'{ALONE}\n{script}'), re.MULTILINE)
