"""The commands of README.md, as they stand there."""

import pytest
from pages import scripts


@pytest.mark.slow
def test_the_readme_leads_from_json_lines_to_answers(shell):
  (script,) = scripts('README.md')
  printed = shell(script)
  assert 'review: ' in printed  # Of `tasks show`.
  assert 'my_reviews/accuracy' in printed  # Of `eval`.
  assert '"inputs": "review: a joy to watch", "prediction": ' in printed
