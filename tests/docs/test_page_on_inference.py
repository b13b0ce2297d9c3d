"""The commands of docs/inference.md, as they stand there."""

import dataclasses
import json
import shutil

import pytest
from pages import blocks, form, run, scripts, shown

PAGE = 'docs/inference.md'


@pytest.fixture(scope='module')
def printed(folder, commands, shell):
  """Function of a part of a script: the JSON lines that the script printed, and all its lines."""
  asked = [script for script in scripts(PAGE) if 't5x-lite serve' not in script]
  outputs = {script: shell(script).splitlines() for script in asked}

  def of(part):
    [lines] = [lines for script, lines in outputs.items() if part in script]
    return [json.loads(line) for line in lines if line.startswith('{')], lines

  return of


@pytest.mark.slow
def test_the_ways_to_decode(printed):
  [greedy], _ = printed('> gaps.txt')
  assert greedy['inputs'] == 'this is one of the <extra_id_0> films of the year'
  [own], _ = printed('LOGITS_TRANSFORMS')
  [small], _ = printed('WEIGHTS=int8')
  assert set(greedy) == {'inputs', 'prediction', 'score'} == set(own)
  assert greedy['score'] != small['score'] == pytest.approx(greedy['score'], rel=0.02)
  for part, number in (
    ('NUM_ANSWERS=3\n', 3), ('NUM_BEAM_GROUPS', 4), ('TOP_P', 3), ('ALLOWED', 2)
  ):  # fmt: skip
    [answer], _ = printed(part)
    scores = [each['score'] for each in answer['answers']]
    assert len(scores) == number and scores == sorted(scores, reverse=True)
    assert answer['answers'][0]['prediction'] == answer['prediction']
  [allowed], _ = printed('ALLOWED')
  assert {each['prediction'] for each in allowed['answers']} == {'best', 'worst'}


@pytest.mark.slow
def test_outputs_have_the_form_that_the_page_shows(printed):
  outputs = {script: lines for script, lines in shown(PAGE, 'sh').items() if 'serve' not in script}
  assert len(outputs) > 8
  for script, expected in outputs.items():
    _, lines = printed(script)
    assert form('\n'.join(lines)) == form(expected), script


@pytest.mark.slow
def test_the_other_modes(printed, folder):
  answers, _ = printed('MODE=score')
  *scored, first, second = answers
  for each in scored:
    assert each['score'] == pytest.approx(sum(each['token_scores']))
  assert {each['prediction'] for each in first['answers']} == {
    '<extra_id_0> joy', '<extra_id_0> man'
  }  # fmt: skip
  assert {each['prediction'] for each in second['answers']} == {
    '<extra_id_0> film', '<extra_id_0> of'
  }  # fmt: skip
  assert printed('MODE=encode')[1][-1].startswith('(2, ')
  assert len((folder / 'answers.jsonl').read_text().splitlines()) == 40
  _, typed = printed('--interactive')
  assert len([line for line in typed if line.endswith(')')]) == 2
  assert typed[-1] == 'error: /temperature=hot: float is wanted'


@pytest.mark.slow
def test_the_model_is_asked_from_python(folder, commands, printed):
  (folder / 'ask.py').write_text(blocks(PAGE, 'python')[1], encoding='utf-8')
  output = run(folder, commands, 'python ask.py')
  assert form(output) == form(shown(PAGE, 'python')[blocks(PAGE, 'python')[1]])
  predicted, scores, shape, metrics = output.splitlines()
  assert 'score' in predicted and len(scores.split()) == 2 and shape.endswith(',)')
  assert "'quickstart_span_corruption': {'loss':" in metrics


@pytest.mark.slow
@pytest.mark.usefixtures('printed')
@pytest.mark.parametrize('index, exported', [(2, 'exported'), (3, 'saved_model')])
def test_exports_are_asked(folder, commands, index, exported):
  script = blocks(PAGE, 'python')[index]
  assert f"'{exported}'" in script
  (folder / f'ask_{exported}.py').write_text(script, encoding='utf-8')
  output = run(folder, commands, f'python ask_{exported}.py')
  assert form(output) == form(shown(PAGE, 'python')[script]) and '-' in output


@pytest.mark.slow
def test_the_server_answers_what_the_page_asks(folder, commands, printed):
  if shutil.which('curl') is None:
    pytest.skip('install curl to ask as the page does')
  # Other flags than those of the process that commands share: a server is one of its own.
  flags = commands.environment['XLA_FLAGS'] + ' --xla_force_host_platform_device_count=1'
  alone = dataclasses.replace(commands, environment=commands.environment | {'XLA_FLAGS': flags})
  [script] = [script for script in scripts(PAGE) if 't5x-lite serve' in script]
  output = run(folder, alone, script)
  assert form(output) == form(shown(PAGE, 'sh')[script])
  *answers, batches = output.splitlines()
  health, predicted, scored = map(json.loads, answers)
  assert health == {'status': 'ready'}
  assert [len(answer['answers']) for answer in predicted['answers']] == [2, 2]
  [first, *_], _ = printed('MODE=score')
  assert scored == {'scores': [pytest.approx(first['score'], rel=1e-4)]}
  assert batches.startswith('t5x_lite_batch_texts_count')
