"""The commands of docs/training.md, as they stand there."""

import pytest
from pages import scripts


@pytest.mark.slow
def test_the_commands_of_the_page_on_training_run(folder, shell):
  for script in scripts('docs/training.md'):
    shell(script)
  assert (folder / 'my_pretraining' / 'metrics' / 'train.jsonl').exists()
  assert (folder / 'my_other_run' / 'metrics' / 'eval.jsonl').exists()
  assert 'tensor' in (folder / 'my_sharded_run' / 'sharding.txt').read_text()
