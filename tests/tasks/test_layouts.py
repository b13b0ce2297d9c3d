"""The files of SuperGLUE's, TriviaQA's and other downloads, in their own layouts; the texts are invented."""

import json

import pytest
import seqio
import t5x_lite.tasks  # noqa: F401
import task_texts

from t5x_lite import choices, errors
from t5x_lite.data import sources, texts


@pytest.fixture
def examples(tmp_path):
  """Function that writes a file and returns what a task makes of it before it is tokenized."""

  def read(task_name, file, content, split='train'):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = content if isinstance(content, str) else '\n'.join(map(json.dumps, content)) + '\n'
    path.write_text(lines, encoding='utf-8')
    choices.begin(local_data=[str(tmp_path)])
    return task_texts.texts_of(seqio.TaskRegistry.get(task_name), split)

  yield read
  choices.begin()


def pairs(rows):
  return [(row['inputs'].decode(), row['targets'].decode()) for row in rows]


MULTIRC = {
  'idx': 4,
  'passage': {
    'text': '<b>Sent 1: </b>Ann has a dog.<br><b>Sent 2: </b>It barks.<br>',
    'questions': [
      {'idx': 9, 'question': 'Who barks?', 'answers': [
        {'idx': 31, 'text': 'The dog', 'label': 1}, {'idx': 32, 'text': 'Ann', 'label': 0}]},
    ],
  },
}  # fmt: skip


def test_multirc_has_an_example_for_each_answer(examples):
  rows = examples('super_glue_multirc_v102', 'SuperGLUE/MultiRC/train.jsonl', [MULTIRC])
  text = 'paragraph: Sent 1: Ann has a dog. Sent 2: It barks. '
  assert pairs(rows) == [
    (f'multirc question: Who barks? answer: The dog {text}', 'True'),
    (f'multirc question: Who barks? answer: Ann {text}', 'False'),
  ]
  assert [row['idx/answer'] for row in rows] == [31, 32]
  assert {(row['idx/paragraph'], row['idx/question']) for row in rows} == {(4, 9)}


def test_record_has_an_example_for_each_answer(examples):
  text = 'Ann met Bob.\n@highlight\nBob is glad'
  record = {
    'idx': 2,
    'passage': {
      'text': text,
      'entities': [{'start': 8, 'end': 10}, {'start': 0, 'end': 2}, {'start': 24, 'end': 26}],
    },
    'qas': [
      {'idx': 7, 'query': '@placeholder smiles', 'answers': [{'text': 'Bob'}, {'text': 'Ann'}]}
    ],
  }
  rows = examples('super_glue_record_v102', 'super_glue/record/train.jsonl', [record])
  inputs = 'record query: @placeholder smiles entities: Ann, Bob passage: Ann met Bob. Bob is glad'
  assert pairs(rows) == [(inputs, 'Ann'), (inputs, 'Bob')]
  assert [answer.decode() for answer in rows[0]['answers']] == ['Ann', 'Bob']


def test_wsc_has_its_spans_in_a_dict(examples):
  target = {'span1_text': 'Ann', 'span1_index': 0, 'span2_text': 'she', 'span2_index': 3}
  record = {'idx': 0, 'text': 'Ann said that she, too, sang.', 'target': target, 'label': True}
  rows = examples('super_glue_wsc_v102_simple_train', 'SuperGLUE/WSC/train.jsonl', [record])
  assert pairs(rows) == [('wsc: Ann said that *she* , too, sang.', 'Ann')]


@pytest.mark.parametrize(
  'name, file, record, inputs, targets',
  [
    ('super_glue_cb_v102', 'CB/train.jsonl', {'premise': 'P', 'hypothesis': 'H', 'label': 'neutral'},
     'cb hypothesis: H premise: P', 'neutral'),
    ('super_glue_copa_v102', 'COPA/train.jsonl',
     {'premise': 'P', 'choice1': 'A', 'choice2': 'B', 'question': 'cause', 'label': 1},
     'copa choice1: A choice2: B premise: P question: cause', 'choice2'),
    ('super_glue_boolq_v102', 'BoolQ/train.jsonl', {'passage': 'P', 'question': 'Q', 'label': True},
     'boolq passage: P question: Q', 'True'),
    ('super_glue_wic_v102', 'WiC/train.jsonl',
     {'word': 'w', 'sentence1': 'A', 'sentence2': 'B', 'label': False, 'start1': 0},
     'wic sentence1: A sentence2: B word: w', 'False'),
    ('super_glue_axb_v102', 'AX-b/AX-b.jsonl',
     {'sentence1': 'A', 'sentence2': 'B', 'label': 'entailment', 'idx': 0},
     'rte hypothesis: B premise: A', 'entailment'),
    ('super_glue_axg_v102', 'AX-g/AX-g.jsonl', {'premise': 'P', 'hypothesis': 'H', 'label': 'not_entailment'},
     'rte hypothesis: H premise: P', 'not_entailment'),
  ],
)  # fmt: skip
def test_super_glue(examples, name, file, record, inputs, targets):
  split = 'test' if 'ax' in name else 'train'
  assert pairs(examples(name, f'SuperGLUE/{file}', [record], split)) == [(inputs, targets)]


def test_glues_tables_have_columns_of_their_own(examples):
  qqp = 'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tA?\tB?\t1\nbroken\n'
  assert pairs(examples('glue_qqp_v002', 'glue_data/QQP/train.tsv', qqp)) == [
    ('qqp question1: A? question2: B?', 'duplicate')
  ]
  mrpc = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tHe said "go.\tGo.\n'
  assert pairs(examples('glue_mrpc_v002', 'glue_data/MRPC/dev.tsv', mrpc, 'validation')) == [
    ('mrpc sentence1: He said "go. sentence2: Go.', 'not_equivalent')
  ]
  mnli = 'index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tx\tP\tH\tneutral\tneutral\n'
  rows = examples('glue_mnli_v002', 'glue_data/MNLI/dev_matched.tsv', mnli, 'validation_matched')
  assert pairs(rows) == [('mnli hypothesis: H premise: P', 'neutral')]
  assert pairs(
    examples('glue_mnli_matched_v002', 'glue_data/MNLI/dev_matched.tsv', mnli, 'validation')
  ) == pairs(rows)
  sts = 'index\tgenre\tsentence1\tsentence2\tscore\n0\tx\tA\tB\t3.333\n'
  assert pairs(examples('glue_stsb_v002', 'glue_data/STS-B/train.tsv', sts)) == [
    ('stsb sentence1: A sentence2: B', '3.4')
  ]
  ax = 'index\tsentence1\tsentence2\n0\tP\tH\n'
  assert pairs(examples('glue_ax_v002', 'glue_data/diagnostic/diagnostic.tsv', ax, 'test')) == [
    ('mnli hypothesis: H premise: P', texts.UNKNOWN)
  ]


def test_questions_from_memory(examples):
  question = {'question': 'who sang it', 'answer': ['Ann', 'Ann B.']}
  rows = examples('natural_questions_open', 'natural_questions/train.jsonl', [question])
  assert pairs(rows) == [('nq question: who sang it', 'Ann')]
  assert [answer.decode() for answer in rows[0]['answers']] == ['Ann', 'Ann B.']
  trivia = {'Data': [{'Question': 'Who sang it?', 'QuestionId': 'q1', 'Answer': {
    'Value': 'Ann', 'Aliases': ['Ann', 'Ann B.'], 'NormalizedAliases': ['ann']}}]}  # fmt: skip
  text = json.dumps(trivia, indent=1)
  rows = examples('trivia_qa_open', 'trivia_qa/web-dev.json', text, 'validation')
  assert pairs(rows) == [('trivia_qa question: Who sang it?', 'Ann')]
  assert [answer.decode() for answer in rows[0]['answers']] == ['Ann', 'Ann B.']


def test_dpr_and_dialogues(examples):
  record = {
    'sentence': 'Ann saw Bob, so he ran.',
    'pronoun': 'he',
    'candidates': ['Ann', 'Bob'],
    'label': 1,
  }
  assert pairs(examples('dpr_v001_simple', 'dpr/train.jsonl', [record])) == [
    ('wsc: Ann saw Bob, so *he* ran.', 'Bob')
  ]


def test_parallel_texts_of_unequal_length_are_named(tmp_path):
  for language, lines in (('en', 'A\nB\n'), ('de', 'C\n')):
    (tmp_path / f'train.{language}').write_text(lines)
  choices.begin(local_data=[f'wmt14_translate/de-en={tmp_path}'])
  with (
    pytest.raises(errors.UserError, match=r'train.de has 1 lines, but .*train.en has more'),
    sources.readable_errors(),
  ):
    list(seqio.TaskRegistry.get('wmt14_ende_v003').source.get_dataset('train', shuffle=False))
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'train.en').write_text('A\n')
  choices.begin(local_data=[f'wmt14_translate/de-en={tmp_path}/other'])
  with pytest.raises(errors.UserError, match="1 for 'en' and 0 for 'de'"):
    seqio.TaskRegistry.get('wmt14_ende_v003').source.get_dataset('train', shuffle=False)
  choices.begin()


def test_a_pronoun_that_is_not_in_the_text_is_named(examples):
  target = {'span1_text': 'Ann', 'span1_index': 0, 'span2_text': 'her', 'span2_index': 1}
  record = {'idx': 0, 'text': 'Ann sang.', 'target': target, 'label': True}
  with (
    pytest.raises(errors.UserError, match="'her' is not a word of 'Ann sang.'"),
    sources.readable_errors(),
  ):
    examples('super_glue_wsc_v102_simple_train', 'SuperGLUE/WSC/train.jsonl', [record])


@pytest.mark.parametrize(
  'content, message',
  [
    ('{"data": [{"paragraphs": [{"qas": [{"id": "1", "question": "Q", "answers": []}]}]}]}',
     "line 1: no field 'context' where this data set has one"),
    ('{"data": [{"paragraphs": ["text"]}]}', 'line 1: this is not nested as this data set is'),
    ('{"question": "Q", "context": "C", "answers": 3, "id": "1"}', 'not nested'),
    ('{"question": "Q", "context": "C", "answers": []}', "line 1: no field 'id'"),
  ],
)  # fmt: skip
def test_a_wrong_nesting_is_named_with_file_and_line(examples, content, message):
  with pytest.raises(errors.UserError) as error:
    examples('squad_v010_allanswers', 'squad/train-v1.1.json', content)
  assert 'squad/train-v1.1.json, line 1: ' in str(error.value)
  assert message in str(error.value)
