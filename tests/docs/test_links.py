"""What the pages refer to."""

import re

import pytest
from pages import ROOT

PAGES = [
  'README.md',
  *(
    f'docs/{name}.md'
    for name in ('architectures', 'caching', 'checkpoints', 'fine_tuning', 'many_hosts', 'training')
  ),
]


@pytest.mark.parametrize('page', PAGES)
def test_links_and_gin_files_that_a_page_names_exist(page):
  text = (ROOT / page).read_text(encoding='utf-8')
  for link in re.findall(r'\]\((?!https?:)([^)#]+)\)', text):
    assert (ROOT / page).parent.joinpath(link).exists(), link
  for name in re.findall(r'(?:adapters|models|runs|optimizers|quickstart)/\w+\.gin', text):
    assert (ROOT / 'gin_configs' / name).exists(), name
