"""Writes what the tasks of the original T5 make of made-up examples: pip install t5==0.9.4."""

import inspect
import json
import pathlib
import re

import numpy as np
import seqio
import t5.data.mixtures
import tensorflow as tf
import tensorflow_datasets as tfds


def rows(names, *values):
  return [dict(zip(names.split(), each, strict=True)) for each in values]


def columns(names, *values):
  """Values of a sequence of features: TFDS has one list for each feature."""
  return {name: [each[i] for each in values] for i, name in enumerate(names.split())}


entailments = [
  ('A goat stands on the red roof.', 'An animal is on a roof.', 0, 11),
  ('Nobody rang the bell  twice.', 'The bell rang hypothesis: twice.', 1, 12),
  (' Où est le café?\nLà-bas. ', 'The café is “over there”', 0, 13),
  ('The ferry was late.', '', -1, 14),
]
mnli = rows('premise hypothesis label idx', *entailments, ('Rain fell.', 'It was dry.', 2, 15))
pairs = rows('sentence1 sentence2 label idx', *entailments)

multirc_paragraph = (
  '<b>Sent 1: </b>Ada planted beans.<br><b>Sent 2: </b>Bo watered them<br/> daily.<br>'
)
multirc = rows('paragraph question answer idx label',
  (multirc_paragraph, 'Who planted <b>beans</b>?', 'Bo<br>', (3, 7, 0), 0),
  (multirc_paragraph, 'Who planted <b>beans</b>?', 'Ada', (3, 7, 1), 1),
  (multirc_paragraph, 'Who watered them?', 'Bo  and <B>Cy</B>', (3, 8, 0), 0),
  ('Nothing <i>here</i>.', 'What is here?', '', (4, 9, 0), -1),
)  # fmt: skip
for example in multirc:
  example['idx'] = dict(zip(('paragraph', 'question', 'answer'), example['idx'], strict=True))

record = rows('passage query entities answers idx',
  ('The fair opened in Oak Hall.\n@highlight\nMayor Lind cut the ribbon\n@highlight\nIt rained!',
   '@placeholder smiled at the crowd', ['Oak Hall', 'Mayor Lind', 'Lind'], ['Mayor Lind', 'Lind'],
   (1, 5)),
  ('She said "no"\n@highlight\nHe said \'yes\'\n@highlight\nWhy?\n@highlight\nOne; two;'
   '\n@highlight\nThe end (of it)\n@highlight\n', 'Only @placeholder  knows.', ['Vera'], ['Vera'],
   (2, 6)),
  ('A boat, then @highlight and another.', 'Where is @placeholder?', ['Port Elm', 'Rye'], [],
   (3, 7)),
  ('No names here.', '@placeholder', [], [], (4, 8)),
)  # fmt: skip
for example in record:
  example['idx'] = dict(zip(('passage', 'query'), example['idx'], strict=True))

wsc = rows('text span1_index span1_text span2_index span2_text label idx',
  ('The baker thanked the miller because he brought flour .', 3, 'the miller', 6, 'he', 1, 0),
  ('The baker thanked the miller because he brought flour .', 0, 'The baker', 6, 'he', 0, 1),
  ('Plan X failed as soon as Tess tried it . Plan X was bad .', 0, 'Plan X', 8, 'it', 1, 2),
  ("Ann's aunt  lent Eve a book when Bob asked her", 0, "Ann's aunt", 10, 'her', 1, 3),
  ('The cup fell on the plate and it broke .', 0, 'The cup', 7, 'it', -1, 4),
)  # fmt: skip

wnli = rows('sentence1 sentence2 label idx',
  ('The fox chased the hen until it hid.', 'The fox chased the hen until the hen hid.', 1, 20),
  ('Mara lost her key. She cried, and Jo laughed.', 'Mara cried, and Jo laughed.', 1, 21),
  ('The kite hit the pole because it was tall.', "The kite hit Ben's because Ben's was tall.",
   0, 22),
  ('Sam hid the nuts from Tim. Nobody saw him!', 'Nobody saw Sam!', -1, 23),
)  # fmt: skip

dpr = rows('sentence pronoun candidates label',
  ('The owls fled the crows because they were loud.', 'they', ['The owls', 'the crows'], 1),
  ('Una paid Ivy, and she, when asked, said she was glad.', 'she', ['Una', 'Ivy'], 0),
  ('The rope held the boat; nobody had checked it.', 'it', ['The rope', 'the boat'], 0),
  ('Nan hid from Bea; when seen by her; Nan ran.', 'her', ['Nan', 'Bea'], 1),
)  # fmt: skip

squad = rows('id title context question answers',
  ('a1', 'Mill', 'The old mill (built 1867) burned.  It was rebuilt—twice—by O\'Neil & Sons, Ltd.',
   'Who rebuilt "the old mill"?',
   columns('text answer_start', ("O'Neil & Sons, Ltd.", 61), ("O'Neil & Sons", 61),
           ('Sons', 70))),
  ('a2', 'Mill', '“Low_tide” is at 5:30\u00a0a.m.\nThe café opens at six; the pier at 7.',
   ' When does the\tcafé open?', columns('text answer_start', ('six', 47), ('at six', 44))),
  ('a3', 'Hill', 'The path climbs past three farms to Gull Rock', 'Where does it end?',
   columns('text answer_start', ('Gull Rock', 36))),
  ('a4', 'Hill', 'The path climbs past three farms, to Gull Rock. Then it ends.', 'How many farms?',
   columns('text answer_start', ('three', 21), ('3', 0))),
  ('a5', 'Hill', 'Ewa keeps sheep. Ewa sells the wool.', 'Who sells wool?',
   columns('text answer_start', ('ewa', 17))),
  ('a6', 'Hill', 'The gate costs $1.50, or more.', 'What does the gate cost?',
   columns('text answer_start', ('$1.50,', 15))),
)  # fmt: skip

trivia_qa = rows('question question_id question_source answer entity_pages search_results',
  ("Which river's mouth is at Elm-port?", 'q1', 'made up',
   {'aliases': ['River Ash', 'Ash', 'The Ash.'], 'normalized_aliases': ['river ash', 'ash', 'elm'],
    'matched_wiki_entity_name': 'Ash', 'normalized_matched_wiki_entity_name': 'ash',
    'normalized_value': 'ash', 'type': 'WikipediaEntity', 'value': 'Ash'},
   columns('doc_source filename title wiki_context',
           ('TagMe', 'Ash.txt', 'Ash', 'The River  Ash, 40 km long,\nreaches the sea by Elm-port')),
   columns('description filename rank search_context title url',
           ('', '1.txt', 0, 'Washing day at the port!', 'Washing', 'http://example.com/1'),
           ('', '2.txt', 1, 'Nothing about it.', 'Nothing', 'http://example.com/2'))),
  ('Who wrote “Low Tide”?', 'q2', 'made up',
   {'aliases': ['I. Q. Moss'], 'normalized_aliases': ['i.q. Moss', 'iris moss'],
    'matched_wiki_entity_name': '', 'normalized_matched_wiki_entity_name': '',
    'normalized_value': 'i q moss', 'type': 'FreeForm', 'value': 'I. Q. Moss'},
   columns('doc_source filename title wiki_context'),
   columns('description filename rank search_context title url',
           ('', '3.txt', 0, 'Low Tide, by I.Q. MOSS', 'Low Tide', 'http://example.com/3'),
           ('', '4.txt', 1, 'By I ; Q , Moss or IRIS  MOSS.', 'Moss', 'http://example.com/4'))),
)  # fmt: skip

# By the name of the data set, or of the task.
raw = {
  'glue/cola': rows('sentence label idx',
    ('Slept dog  the the.', 0, 0), ('The dog the cat chased slept.', 1, 1),
    ('Is it “fine”?', 1, 2), ('They left', -1, 3)),
  'glue/sst2': rows('sentence label idx',
    ('dull and far too long ', 0, 0), ('a warm , clever little film ', 1, 1), ('watch it', -1, 2)),
  'glue/mrpc': pairs,
  'glue/qqp': rows('question1 question2 label idx', *entailments),
  'glue/stsb': rows('sentence1 sentence2 label idx',
    *[('A man rows.', 'A man is rowing.', label, i)
      for i, label in enumerate((2.5499, 0.0, 5.0, 3.8, 2.5, 1.5, 0.1, -1.0))]),
  'glue/mnli': mnli,
  'glue/mnli_matched': mnli[:2],
  'glue/mnli_mismatched': mnli[2:],
  'glue/qnli': rows('question sentence label idx', *entailments),
  'glue/rte': pairs,
  'glue/wnli': wnli,
  'glue/ax': [{**example, 'label': -1} for example in mnli[:2]],
  'super_glue/boolq': rows('question passage label idx',
    ('can goats fly', 'Goat -- Goats climb.', 0, 0),
    ('is moss a plant', 'Moss -- Moss is a small plant.\nIt has no flowers.', 1, 1),
    ('is it so', 'So -- It may be.', -1, 2)),
  'super_glue/cb': mnli,
  'super_glue/copa': rows('premise choice1 choice2 question label idx',
    ('The lamp went out.', 'The oil was gone.', 'The moon rose.', 'cause', 0, 0),
    ('She dropped the jar.', 'It floated.', 'It broke.', 'effect', 1, 1),
    ('It snowed.', 'We stayed in.', 'We swam.', 'effect', -1, 2)),
  'super_glue/multirc': multirc,
  'super_glue/record': record,
  'super_glue/rte': rows('premise hypothesis label idx', *entailments),
  'super_glue/wic': rows('word sentence1 sentence2 start1 end1 start2 end2 label idx',
    ('run', 'A run of luck.', 'They run  home.', 2, 5, 5, 8, 0, 0),
    ('bank', 'We sat on the bank.', 'The bank was steep.', 14, 18, 4, 8, 1, 1),
    ('set', 'Set it down.', 'A set of cups.', 0, 3, 2, 5, -1, 2)),
  'super_glue/axb': pairs,
  'super_glue/axg': rows('premise hypothesis label idx', *entailments),
  'super_glue/wsc.fixed': wsc,
  'definite_pronoun_resolution': dpr,
  'squad/v1.1': squad,
  'squad_v010_context_free': squad[:2],
  'trivia_qa/rc': trivia_qa,
  'cnn_dailymail': rows('article highlights id publisher',
    (' (Town Post) -- A bridge fell.  Nobody was hurt.\nIt was old.',
     'Bridge fell .\nNobody was hurt .', 'c1', 'made up'),
    ('', 'A second story . And its end .', 'c2', 'made up')),
  'wmt14_translate/de-en': rows('de en',
    ('Das Boot ist grün.', 'The boat is green.'), ('Wo?\n', ' Where?  ')),
  'wmt_t2t_translate/de-en': rows('de en', ('Das Boot ist grün.', 'The boat is green.')),
  'wmt15_translate/fr-en': rows('fr en',
    ('Le bateau est à l’eau.', 'The boat is in the water.'), ('Où ?', 'Where?')),
  'wmt16_translate/ro-en': rows('ro en',
    ('Barca este în apă.', 'The boat is in the water.'), ('Unde?', 'Where?')),
}  # fmt: skip

referents = ['the miller', 'Miller', 'miller bread', "Ann's aunt", 'the her', '', 'Sam', 'it X']
answers = ["O ' Neil & Sons , Ltd . ", 'the SIX', 'three farms', 'at Gull Rock!', '']
texts = ['Bridge fell . Nobody was hurt .', 'A second story .', '']
translations = ['Das Boot ist grün.', 'Le bateau est à l’eau.', 'Barca în apă.', 'Unde?']
predictions = {
  'glue_stsb_v002': ['2.6', '0', '4.8', ' 3.8 ', 'two', '', '-1', '2,5'],
  'super_glue_record_v102': ['Mayor Lind', 'Vera', 'the lind', '<unk>', ''],
  'super_glue_wsc_v102_simple_train': referents,
  'super_glue_wsc_v102_simple_eval': referents,
  'glue_wnli_v002_simple_eval': ['hen', 'Mara', 'the pole', 'Tim', "Ben's kite", 'their', ''],
  'dpr_v001_simple': ['the crows', 'una', 'The rope', 'Nan'],
  'squad_v010_allanswers': answers,
  'squad_v010_context_free': answers,
  'squad_v010_allanswers_span': [
    'start: 22 end: 22', 'start: 4 end: 4', 'start: 17 end: 19', 'start: 3', 'start: x end: y', '',
  ],
  'trivia_qa_v010': ['river ash', 'Ash'],
  'cnn_dailymail_v002': texts,
  **dict.fromkeys(
    ['wmt14_ende_v003', 'wmt_t2t_ende_v003', 'wmt15_enfr_v003', 'wmt16_enro_v003'], translations
  ),
}  # fmt: skip


def data_set_of(name):
  return seqio.TaskRegistry.get(name).source.tfds_dataset.name.split(':')[0]


def plain(value):
  match value:
    case dict():
      return {name: plain(each) for name, each in value.items()}
    case list() | tuple():
      return [plain(each) for each in value]
    case np.ndarray() | np.generic():
      return plain(value.tolist())
    case bytes():
      return value.decode()
  return value


def text_of(task, raw_examples, features):
  """The examples that the preprocessors before tokenization make."""
  dataset = tf.data.Dataset.from_generator(
    lambda: raw_examples, output_signature=features.get_tensor_spec()
  )
  preprocessors = task.preprocessors[: task.preprocessors.index(seqio.preprocessors.tokenize)]
  for preprocessor in preprocessors:
    dataset = preprocessor(dataset)
  return list(dataset.as_numpy_iterator())


def postprocessed(task, example, guesses):
  """What the metrics are given of an example, as its target and for each of the guesses."""
  target = example['targets'].decode()
  kept = {**example, 'targets_pretokenized': example['targets']}
  return {
    'target': task.postprocess_fn(target, example=kept, is_target=True),
    'predictions': [task.postprocess_fn(g, example=kept, is_target=False) for g in guesses],
  }


def golden(name):
  task = seqio.TaskRegistry.get(name)
  data_set = data_set_of(name)
  builder = tfds.builder(data_set)
  raw_examples = raw.get(name, raw[data_set])
  examples = text_of(task, raw_examples, builder.info.features)
  guesses = predictions.get(name)
  if guesses is None:
    labels = list(builder.builder_config.label_classes)
    guesses = [*labels, labels[0].swapcase(), f'{labels[1]}.', '<unk>', '']
  made = [postprocessed(task, example, guesses) for example in examples]
  labelled = [i for i, e in enumerate(examples) if e['targets'] not in (b'<unk>', b'-1.0')]
  scores = {}
  for metric in task.metric_fns:
    if labelled and metric.__name__ != 'rouge':  # That is the median of random samples.
      guessed = [made[i]['predictions'][i % len(guesses)] for i in labelled]
      scores |= metric([made[i]['target'] for i in labelled], guessed)
  return {
    'raw': raw_examples,
    'text': examples,
    'predictions': guesses,
    'postprocessed': made,
    'metrics': [metric.__qualname__.split('.')[0] for metric in task.metric_fns],
    'scores': scores,  # Of guess i % len(predictions) for example i, where it has a label.
  }


def truncated():
  """What trivia_qa_v010 does after tokenization."""
  tokens = [
    {'inputs': list(range(10, 10 + length)), 'targets': targets}
    for length, targets in [
      (12, [11]), (13, [11, 12]), (24, [21, 22]), (24, [10]), (24, [32, 33]), (24, [33, 32]),
      (24, [21, 22]), (8, [99]), (24, list(range(15, 27))),
    ]
  ]  # fmt: skip
  tokens.append({'inputs': [7, 5] * 12, 'targets': [5, 7]})
  spec = {name: tf.TensorSpec([None], tf.int32) for name in ('inputs', 'targets')}
  dataset = tf.data.Dataset.from_generator(lambda: tokens, output_signature=spec)
  with seqio.map_seed_manager(initial_seed=42):
    dataset = t5.data.preprocessors.trivia_qa_truncate_inputs(
      dataset, output_features=None, sequence_length={'inputs': 12, 'targets': 12}
    )
  return {'tokens': tokens, 'rows': list(dataset.as_numpy_iterator())}


def rate(value):
  """A number, or the function of the task that gives it with its settings."""
  if not callable(value):
    return value
  settings = {s.name: s.default for s in inspect.signature(value).parameters.values()}
  wanted = ('maximum', 'scale', 'temperature', 'value')
  return {'function': value.__name__} | {s: settings[s] for s in wanted if s in settings}


def rates(name):
  listed = [[t, rate(r)] for t, r in seqio.MixtureRegistry.get(name).rate_per_task_name.items()]
  # T5 adds these from sets, in no order.
  return sorted(listed, key=lambda each: each[0]) if name.startswith('leave_one_out_') else listed


def on_one_line(match):
  line = re.sub(r'\n\s*', ' ', match[0])
  return line if len(line) <= 120 else match[0]


content = {
  name: golden(name)
  for name in seqio.TaskRegistry.names()
  if data_set_of(name) in raw and 'sentinel' not in name and name != 'squad_v010'
}
content['trivia_qa_v010']['truncated'] = truncated()
content['mixtures'] = {name: rates(name) for name in seqio.MixtureRegistry.names()}
text = json.dumps(plain(content), indent=1, ensure_ascii=False)
for innermost in (r'[{[][^][{}]*[]}]', r'\[\s+"\w+",\s+{[^{}]+}\s+\]'):
  text = re.sub(innermost, on_one_line, text)
pathlib.Path(__file__).with_name('examples.json').write_text(text + '\n')
