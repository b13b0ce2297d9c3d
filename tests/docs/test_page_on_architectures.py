"""The commands of docs/architectures.md, as they stand there."""

import pytest
from pages import scripts


@pytest.mark.slow
def test_the_commands_of_the_page_on_architectures_run(folder, shell):
  printed = [shell(script) for script in scripts('docs/architectures.md')]
  assert 'my_reviews/accuracy' in printed[0] and '"inputs": "review: a joy to watch"' in printed[0]
  assert '"inputs": "a joy to", "prediction": ' in printed[1]
  assert (folder / 'my_rotary_model' / 'checkpoints' / '4').exists()
