"""The commands of docs/reliability.md, as they stand there."""

import json

import pytest
from pages import scripts


@pytest.mark.slow
def test_the_commands_of_the_page_on_reliability_run(folder, shell):
  [script] = scripts('docs/reliability.md')
  shell(script)
  run = folder / 'my_guarded_run'
  last = (run / 'metrics' / 'train.jsonl').read_text().splitlines()[-1]
  assert json.loads(last)['skipped_updates'] >= 0
  account = json.loads((run / 'metrics' / 'goodput.json').read_text())
  assert account['finished'] and account['seconds']['step'] > 0
  assert list(run.glob('tensorboard/train/plugins/profile/*/perfetto_trace.json.gz'))
