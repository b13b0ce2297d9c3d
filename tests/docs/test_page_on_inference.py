"""The commands of docs/inference.md, as they stand there."""

import json

import pytest
from pages import blocks, run, scripts

PAGE = 'docs/inference.md'


@pytest.fixture(scope='module')
def printed(folder, commands, shell):
  """Function of a part of a script: the JSON lines that the script printed, and all its lines."""
  outputs = {script: shell(script).splitlines() for script in scripts(PAGE)}

  def of(part):
    [lines] = [lines for script, lines in outputs.items() if part in script]
    return [json.loads(line) for line in lines if line.startswith('{')], lines

  return of


@pytest.mark.slow
def test_the_ways_to_decode(printed):
  [greedy], _ = printed('> gaps.txt')
  assert greedy['inputs'] == 'this is one of the <extra_id_0> films of the year'
  [own], _ = printed('LOGITS_TRANSFORMS')
  assert set(greedy) == {'inputs', 'prediction', 'score'} == set(own)
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
  assert any('is of another type' in line for line in typed)


@pytest.mark.slow
def test_the_model_is_asked_from_python(folder, commands, printed):
  (folder / 'ask.py').write_text(blocks(PAGE, 'python')[1], encoding='utf-8')
  predicted, scores, shape, metrics = run(folder, commands, 'python ask.py').splitlines()[-4:]
  assert 'score' in predicted and len(scores.split()) == 2 and shape.endswith(',)')
  assert "'quickstart_span_corruption': {'loss':" in metrics


@pytest.mark.slow
@pytest.mark.usefixtures('printed')
@pytest.mark.parametrize('index, exported, num_lines', [(2, 'exported', 2), (3, 'saved_model', 1)])
def test_exports_are_asked(folder, commands, index, exported, num_lines):
  script = blocks(PAGE, 'python')[index]
  assert f"'{exported}'" in script
  (folder / f'ask_{exported}.py').write_text(script, encoding='utf-8')
  lines = run(folder, commands, f'python ask_{exported}.py').splitlines()
  assert len(lines) == num_lines and '-' in lines[-1]
