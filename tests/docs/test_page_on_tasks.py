"""The commands of docs/tasks.md and docs/evaluation.md, as they stand there."""

import json
import re

import pytest
from pages import scripts


@pytest.mark.slow
def test_the_commands_of_the_pages_on_tasks_and_evaluation_run(folder, shell):
  printed = [shell(script) for script in scripts('docs/tasks.md')]
  assert 'sst2 sentence: ' in printed[0]
  assert 'glue_sst2_v002/accuracy' in printed[1]
  assert 'my_labels text: ' in printed[3] and 'my_labels/accuracy' in printed[3]
  lines = (folder / 'my_glue_run' / 'metrics' / 'eval.jsonl').read_text().splitlines()
  assert json.loads(lines[-1])['glue/num_tasks'] == 3

  printed = [shell(script) for script in scripts('docs/evaluation.md')]
  assert 'step 20' in printed[0]
  assert re.search(r'glue_rte_v002/invalid_predictions +0.0000', printed[1])
  assert len(list((folder / 'my_best_run' / 'checkpoints').iterdir())) <= 4
  assert 'GLUE.zip: 2 files' in printed[3]
