"""The commands of docs/inference.md, as they stand there."""

import json

import pytest
from pages import blocks, run, scripts


@pytest.mark.slow
def test_the_commands_of_the_page_on_inference_run(folder, commands, shell):
  printed = [shell(script) for script in scripts('docs/inference.md')]
  greedy, beams, diverse, samples, allowed, own = (
    json.loads([line for line in each.splitlines() if line.startswith('{')][-1]) for each in printed
  )
  assert greedy['inputs'] == 'this is one of the <extra_id_0> films of the year'
  assert set(greedy) == {'inputs', 'prediction', 'score'} == set(own)
  for answers, number in ((beams, 3), (diverse, 4), (samples, 3), (allowed, 2)):
    scores = [each['score'] for each in answers['answers']]
    assert len(scores) == number and scores == sorted(scores, reverse=True)
    assert answers['answers'][0]['prediction'] == answers['prediction']
  assert {each['prediction'] for each in allowed['answers']} == {'best', 'worst'}

  (folder / 'ask.py').write_text(blocks('docs/inference.md', 'python')[1], encoding='utf-8')
  predicted, scores, metrics = run(folder, commands, 'python ask.py').splitlines()[-3:]
  assert 'score' in predicted and len(scores.split()) == 2
  assert "'quickstart_span_corruption': {'loss':" in metrics
