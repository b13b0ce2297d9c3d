"""Tasks of the benchmark on real data sets, in the files in which people hold them."""

import collections

import pytest
import seqio
import t5x_lite.tasks  # noqa: F401

from t5x_lite import choices
from t5x_lite.data import batches


@pytest.fixture
def chosen(shared_data):
  """Function that says what to read; the vocabulary is T5's own, from a file."""

  def choose(*local_data):
    choices.begin(
      local_data=[entry.format(shared_data) for entry in local_data or ('{}',)],
      vocabulary=str(shared_data / 'vocab/t5_cc_all_32000_sentencepiece.model'),
    )

  yield choose
  choices.begin()


def texts(name, split='validation', length=512):
  """Every (inputs, targets) of a task, decoded from its tokens."""
  config = batches.DatasetConfig(
    name, {'inputs': length, 'targets': 128}, split, batch_size=256, shuffle=False
  )
  vocabulary = batches.output_features(name)['targets'].vocabulary
  rows = [
    pair
    for batch in batches.eval_batches(config)
    for pair in zip(batch['encoder_input_tokens'], batch['decoder_target_tokens'], strict=True)
    if pair[1].any()
  ]
  return [tuple(vocabulary.decode(tokens.tolist()) for tokens in pair) for pair in rows]


@pytest.mark.parametrize(
  'name, num_examples, inputs, targets, counts',
  [
    ('glue_cola_v002', 515, 'cola sentence: Somebody just left - guess who.', 'acceptable',
     {'acceptable': 354, 'unacceptable': 161}),
    ('glue_sst2_v002', 872, "sst2 sentence: it 's a charming and often affecting journey .",
     'positive', {'positive': 444, 'negative': 428}),
    ('glue_mrpc_v002', 408, "mrpc sentence1: He said the foodservice pie business doesn 't fit the "
     'company \'s long-term growth strategy . sentence2: " The foodservice pie business does not '
     'fit our long-term growth strategy .', 'equivalent',
     {'equivalent': 279, 'not_equivalent': 129}),
    ('glue_qnli_v002', 5463, 'qnli question: What came into force after the new constitution was '
     'herald? sentence: As of that day, the new constitution heralding the Second Republic came '
     'into force.', 'entailment', {'entailment': 2702, 'not_entailment': 2761}),
    ('glue_rte_v002', 277, 'rte sentence1: Dana Reeve, the widow of the actor Christopher Reeve, '
     'has died of lung cancer at age 44, according to the Christopher Reeve Foundation. sentence2: '
     'Christopher Reeve had an accident.', 'not_entailment',
     {'entailment': 146, 'not_entailment': 131}),
    ('glue_wnli_v002', 70, 'wnli sentence1: The drain is clogged with hair. It has to be cleaned. '
     'sentence2: The hair has to be cleaned.', 'not_entailment',
     {'entailment': 31, 'not_entailment': 39}),
    ('super_glue_wic_v102', 638, 'wic sentence1: An emerging professional class. sentence2: '
     'Apologizing for losing your temper, even though you were badly provoked, showed real class. '
     'word: class', 'False', {'False': 319, 'True': 319}),
  ],
)  # fmt: skip
def test_classification(chosen, name, num_examples, inputs, targets, counts):
  chosen()
  examples = texts(name)
  assert examples[0] == (inputs, targets)
  assert collections.Counter(target for _, target in examples) == counts
  assert len(examples) == num_examples


def test_similarity(chosen):
  chosen()
  examples = texts('glue_stsb_v002')
  assert len(examples) == 1500
  assert examples[0][1] == '5.0'
  scores = {target for _, target in examples}
  assert scores <= {f'{number / 5:.1f}' for number in range(26)}


def test_reading_comprehension(chosen):
  chosen()
  examples = texts('super_glue_boolq_v102', length=64)
  assert examples[0][0].startswith('boolq passage: Ethanol fuel -- All biomass goes through')
  assert collections.Counter(target for _, target in examples) == {'True': 2033, 'False': 1237}


def test_questions_about_texts(chosen):
  chosen('squad/validation={}/qa/xquad.en.json')
  examples = texts('squad_v010_allanswers')
  assert len(examples) == 1190
  assert examples[0][0].startswith(
    'question: How many points did the Panthers defense surrender ? context: The Panthers defense '
    'gave up just 308 points , ranking sixth'
  )
  assert examples[0][1] == '308'
  assert texts('squad_v010_context_free')[0] == (
    'squad trivia question: How many points did the Panthers defense surrender ?', '308'
  )  # fmt: skip
  spans = texts('squad_v010_allanswers_span')
  assert spans[0][1] == 'start: 6 end: 6'
  assert len(spans) > 1150  # Answers of signs alone, such as a currency's, are in no word.


def test_right_answers_and_spans_have_full_marks(chosen):
  chosen('squad/validation={}/qa/xquad.en.json')
  for name, is_span in (('squad_v010_allanswers', False), ('squad_v010_allanswers_span', True)):
    task = seqio.TaskRegistry.get(name)
    dataset = task.get_dataset({'inputs': 512, 'targets': 64}, 'validation', shuffle=False)
    examples = list(dataset.as_numpy_iterator())
    answers = [example['targets_pretokenized'].decode() for example in examples]
    targets = [
      task.postprocess_fn(a, example=e, is_target=True)
      for a, e in zip(answers, examples, strict=True)
    ]
    scores = task.metric_fns[0](targets, answers)
    assert scores == {'em': 100.0, 'f1': 100.0} if not is_span else scores['em'] > 98


def test_translation_of_parallel_files_and_of_json_lines(chosen):
  chosen(
    'wmt14_translate/de-en={}/translation/multi30k',
    'wmt14_translate/fr-en={}/translation/multi30k',
    'wmt16_translate/ro-en={}/translation/wmt_en_ro',
  )
  german, french = texts('wmt14_ende_v003'), texts('wmt14_enfr_v003')
  assert len(german) == len(french) == 1014
  assert german[0] == (
    'translate English to German: A group of men are loading cotton onto a truck',
    'Eine Gruppe von Männern lädt Baumwolle auf einen Lastwagen',
  )
  assert french[0][0].startswith('translate English to French: A group of men')
  romanian = texts('wmt16_enro_v003')
  assert romanian[0][0].startswith("translate English to Romanian: Brazil's Former Presidential")


def test_summaries(chosen):
  chosen('xsum/validation={}/summarization/xsum_sample.json')
  examples = texts('xsum_v110')
  assert examples[0][0].startswith('summarize: The warning begins at 22:00 GMT on Saturday')
  assert examples[0][1].startswith('The Met Office has issued a yellow weather warning')


def test_instructions_come_in_several_wordings_that_the_seed_draws(chosen):
  chosen()
  examples = texts('rte_instructions_v001')
  assert len(examples) == 277
  assert collections.Counter(target for _, target in examples) == {'yes': 146, 'no': 131}
  assert sum(inputs.startswith('Premise: ') for inputs, _ in examples) in range(15, 60)
  assert sum(inputs.startswith('Read the text') for inputs, _ in examples) in range(15, 60)
  assert texts('rte_instructions_v001') == examples


@pytest.mark.parametrize(
  'name',
  ['c4_v220_span_corruption', 'c4_v220_random_spans_drop', 'c4_v220_iid_denoising',
   'c4_v220_bert_style', 'c4_v220_mass_style', 'c4_v220_deshuffling', 'c4_v220_prefix_lm',
   'c4_v020_unsupervised', 'c4_v220_ul2'],
)  # fmt: skip
def test_objectives_on_c4(chosen, name):
  chosen('c4/en/train={}/text/c4_500.jsonl')
  config = batches.DatasetConfig(name, {'inputs': 128, 'targets': 144}, batch_size=8, seed=0)
  batch = next(batches.train_batches(config))
  assert (batch['encoder_input_tokens'] != 0).mean() > 0.4


def test_plain_language_modeling_of_c4(chosen):
  chosen('c4/en/train={}/text/c4_500.jsonl')
  config = batches.DatasetConfig('c4_v220_full_lm', {'targets': 128}, batch_size=8, seed=0)
  batch = next(batches.train_batches(config, has_encoder=False))
  assert (batch['decoder_target_tokens'] != 0).all()
