"""SuperGLUE (Wang et al. 2019, https://super.gluebenchmark.com) as text: Raffel et al. 2020, appendix D.

Files are those of SuperGLUE's own download, BoolQ/train.jsonl, or tables with TFDS's names of the columns. WSC, and
with it Definite Pronoun Resolution (DPR) and WNLI, ask what a marked pronoun stands for (section 2.4 there).
"""

import functools

import seqio
import tensorflow as tf
from t5x_lite.tasks import glue, registration

from t5x_lite.data import local_data, metrics, pronouns, records, texts

VERSION = '1.0.2'
TRUTH = ('False', 'True')
_ACCURACY = (metrics.accuracy, metrics.invalid_predictions)


def source(name, fields, *, splits=glue.SPLITS, names=None, expand=None, other_names=()):
  """A data set of SuperGLUE, of TFDS or of files."""
  layout = records.Layout(fields=fields, names=names or {}, expand=expand)
  return local_data.LocalOrTfdsDataSource(
    f'super_glue/{name}:{VERSION}',
    splits,
    functools.partial(records.RecordsDataSource, layout=layout),
    other_names=other_names,
  )


def _labelled(fields, labels):
  return dict.fromkeys(fields, str) | {'label': labels, 'idx': records.NUMBER}


def _add(name, fields, labels, metric_fns=_ACCURACY, *, prefix=None, others=(), **options):
  registration.add_task(
    f'super_glue_{name}_v102',
    source(name, _labelled((*fields, *others), labels), **options),
    metric_fns=metric_fns,
    **glue.classification(prefix or name, fields, labels),
  )


_ROW = {'idx': ('index',)}
_add('boolq', ('passage', 'question'), TRUTH, names=_ROW)
_add(
  'cb',
  ('hypothesis', 'premise'),
  ('entailment', 'contradiction', 'neutral'),
  (functools.partial(metrics.mean_multiclass_f1, num_classes=3), *_ACCURACY),
)
_add('copa', ('choice1', 'choice2', 'premise', 'question'), ('choice1', 'choice2'))
_add('rte', ('hypothesis', 'premise'), glue.ENTAILMENT)
# Where in the sentences the word is, is not used.
_add('wic', ('sentence1', 'sentence2', 'word'), TRUTH, names=_ROW)
_add('axg', ('hypothesis', 'premise'), glue.ENTAILMENT, (), prefix='rte', splits=('test',))


@seqio.map_over_dataset
def _broad_coverage_as_rte(example):
  return {
    'premise': example['sentence1'],
    'hypothesis': example['sentence2'],
    'label': example['label'],
    'idx': example['idx'],
  }


_axb = glue.classification('rte', ('hypothesis', 'premise'), glue.ENTAILMENT)
registration.add_task(
  'super_glue_axb_v102',
  source('axb', _labelled(('sentence1', 'sentence2'), glue.ENTAILMENT), splits=('test',)),
  **(_axb | {'to_text': [_broad_coverage_as_rte, _axb['to_text']]}),
)


# --- MultiRC: which of several answers are right ---


def _multirc_examples(record):
  """One example for each answer of a paragraph, as SuperGLUE's file nests them."""
  passage = record.get('passage', {})
  for question in passage.get('questions', ()):
    for answer in question['answers']:
      yield {
        'paragraph': passage['text'],
        'question': question['question'],
        'answer': answer['text'],
        'idx/paragraph': record['idx'],
        'idx/question': question['idx'],
        'idx/answer': answer['idx'],
      } | {name: answer[name] for name in ('label',) if name in answer}


@seqio.map_over_dataset
def _multirc_to_text(example):
  text = tf.strings.join(
    ['multirc question:', example['question'], 'answer:', example['answer'], 'paragraph:', example['paragraph']],
    separator=' ',
  )  # fmt: skip
  text = tf.strings.regex_replace(text, '<br>', ' ')
  return {
    'inputs': tf.strings.regex_replace(text, '</?b>', ''),
    'targets': texts.label_text(example['label'], TRUTH),
  } | {f'idx/{name}': number for name, number in example['idx'].items()}


def _multirc_answer(text, *, label_classes, example=None, is_target=False):
  answer = {'value': metrics.label_to_class_id(text, label_classes=label_classes)}
  return answer | ({'group': example['idx/question']} if is_target else {})


registration.add_task(
  'super_glue_multirc_v102',
  source(
    'multirc',
    dict.fromkeys(('paragraph', 'question', 'answer'), str)
    | dict.fromkeys(('idx/paragraph', 'idx/question', 'idx/answer'), int)
    | {'label': TRUTH},
    expand=_multirc_examples,
  ),
  _multirc_to_text,
  metric_fns=(
    metrics.multirc_f1_over_all_answers,
    metrics.mean_group_metric(metrics.all_match),
    metrics.invalid_predictions,
  ),
  postprocess_fn=functools.partial(_multirc_answer, label_classes=TRUTH),
)


# --- ReCoRD: which entity fills a gap ---


def _record_examples(record):
  """One example for each query of a passage, as SuperGLUE's file nests them."""
  passage = record.get('passage', {})
  text = passage.get('text', '')
  spans = [text[each['start'] : each['end'] + 1] for each in passage.get('entities', ())]
  for query in record.get('qas', ()):
    yield {
      'passage': text,
      'query': query['query'],
      'entities': sorted(set(spans)),
      'answers': sorted({each['text'] for each in query.get('answers', ())}),
      'idx/passage': record['idx'],
      'idx/query': query['idx'],
    }


def _record_to_text(dataset):
  """One example for each answer, all of which evaluation takes for right; `<unk>` where there is none."""

  @seqio.map_over_dataset
  def to_text(example):
    passage = tf.strings.regex_replace(
      example['passage'], r'(\.|\?|\!|\"|\')\n@highlight\n', r'\1 '
    )
    passage = tf.strings.regex_replace(passage, r'\n@highlight\n', '. ')
    entities = tf.strings.reduce_join(example['entities'], separator=', ')
    answers = example['answers']
    targets = answers if tf.size(answers) > 0 else tf.constant([texts.UNKNOWN])
    parts = ['record query:', example['query'], 'entities:', entities, 'passage:', passage]
    common = {
      'inputs': tf.strings.join(parts, separator=' '),
      'idx/passage': example['idx']['passage'],
      'idx/query': example['idx']['query'],
    }
    repeated = {name: tf.repeat(value, tf.size(targets)) for name, value in common.items()}
    return repeated | {
      'targets': targets,
      'answers': tf.repeat(answers[None], tf.size(targets), axis=0),
    }

  return to_text(dataset).unbatch()


def _record_answer(text, *, example=None, is_target=False):
  if not is_target:
    return {'value': text}
  return {
    'value': [tf.compat.as_text(answer) for answer in example['answers']],
    'group': (example['idx/passage'], example['idx/query']),
  }


registration.add_task(
  'super_glue_record_v102',
  source(
    'record',
    {'passage': str, 'query': str, 'entities': [str], 'answers': [str]}
    | dict.fromkeys(('idx/passage', 'idx/query'), int),
    expand=_record_examples,
  ),
  _record_to_text,
  metric_fns=(metrics.deduplicate_metric(metrics.squad),),
  postprocess_fn=_record_answer,
)


# --- WSC, DPR and WNLI: what a pronoun stands for ---


def _wsc_example(record):
  """SuperGLUE's file keeps the spans in a dict of their own."""
  yield {**record, **record.get('target', {})}


def _wsc_source(splits):
  fields = dict.fromkeys(('text', 'span1_text', 'span2_text'), str)
  fields |= {'span1_index': int, 'span2_index': int, 'label': TRUTH, 'idx': records.NUMBER}
  return source(
    'wsc.fixed', fields, splits=splits, expand=_wsc_example, other_names=('super_glue/wsc',)
  )


# A wrong referent says nothing of the right one, so training has those alone that are right.
registration.add_task(
  'super_glue_wsc_v102_simple_train',
  _wsc_source(('train',)),
  [pronouns.only_right, pronouns.mark_pronoun],
)
registration.add_task(
  'super_glue_wsc_v102_simple_eval',
  _wsc_source(('validation', 'test')),
  pronouns.mark_pronoun,
  metric_fns=_ACCURACY,
  postprocess_fn=pronouns.is_referent,
)
registration.add_task(
  'glue_wnli_v002_simple_eval',
  glue.source(
    'wnli',
    ('validation', 'test'),
    fields=('sentence1', 'sentence2'),
    labels=('not_entailment', 'entailment'),
  ),
  pronouns.find_pronoun,
  metric_fns=_ACCURACY,
  postprocess_fn=pronouns.is_referent,
)
registration.add_task(
  'dpr_v001_simple',
  local_data.LocalOrTfdsDataSource(
    'definite_pronoun_resolution:1.1.0',
    ('train', 'test'),
    functools.partial(
      records.RecordsDataSource,
      layout=records.Layout(
        fields={
          'sentence': str,
          'pronoun': str,
          'candidates': [str],
          'label': ('candidate_0', 'candidate_1'),
        }
      ),
    ),
    other_names=('dpr',),
  ),
  pronouns.choose_candidate,
  metric_fns=(metrics.accuracy,),
)

# With a sentinel that the target begins with, as in pre-training.
for _name in (
  *(f'super_glue_{each}_v102' for each in ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'axb', 'axg')),
  'super_glue_wsc_v102_simple_train',
  'super_glue_wsc_v102_simple_eval',
  'dpr_v001_simple',
):  # fmt: skip
  seqio.experimental.add_task_with_sentinels(_name, num_sentinels=1)
