"""The commands of docs/many_hosts.md, as they stand there."""

import json

import pytest
from pages import ROOT, blocks, scripts

PAGE = 'docs/many_hosts.md'


@pytest.mark.slow
def test_two_hosts_train_as_the_page_says_and_one_goes_on(folder, shell):
  (folder / 'launch').symlink_to(ROOT / 'launch')
  by_both, *rest = scripts(PAGE)
  assert blocks(PAGE, 'text')[0] in shell(f'{{ {by_both}}} 2>&1')
  for script in rest:
    shell(script)
  run = folder / 'my_run_of_two_hosts'
  lines = (run / 'metrics' / 'train.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == list(range(1, 11))
  saved = (run / 'checkpoints' / '8' / 'run').glob('batches_state-*')
  assert {path.name for path in saved} == {'batches_state-0-of-2', 'batches_state-1-of-2'}
  # 20 examples, in batches of 16 over two hosts, and those of one.
  by_two, by_one = (
    json.loads((run / 'metrics' / name).read_text().splitlines()[-1])
    for name in ('eval.jsonl', 'infer.jsonl')
  )
  assert by_two['step'] == by_one['step'] == 8
  names = [name for name in by_two if name.startswith('my_reviews/')]
  assert len(names) > 3
  for name in names:
    assert by_two[name] == pytest.approx(by_one[name], rel=1e-5), name
