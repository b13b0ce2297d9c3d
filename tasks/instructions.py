"""Tasks in the words of instructions, after FLAN (Wei et al. 2022): each example in one of several templates."""

import functools

from t5x_lite.tasks import glue, registration

from t5x_lite.data import metrics, texts

LABELS = ('yes', 'no')  # For entailment and not_entailment.
_QUESTION = 'Answer with yes or no.'
TEMPLATES = tuple(
  (inputs, '{label}')
  for inputs in (
    '{sentence1}\n\nDoes this mean that "{sentence2}"? ' + _QUESTION,
    'Read the text and say whether the sentence follows from it. ' + _QUESTION + '\n\nText: '
    '{sentence1}\n\nSentence: {sentence2}',
    'If it is true that "{sentence1}", is it also true that "{sentence2}"? ' + _QUESTION,
    'Premise: {sentence1}\nHypothesis: {sentence2}\nDoes the premise entail the hypothesis?',
    '{sentence1}\nQuestion: can we conclude that {sentence2}\nyes or no?',
    'Someone read "{sentence1}" and says "{sentence2}" Is that right? ' + _QUESTION,
    'Given the following text, can one be sure of the claim after it?\n{sentence1}\nClaim: '
    '{sentence2}\n' + _QUESTION,
    'Is "{sentence2}" supported by "{sentence1}"? ' + _QUESTION,
  )
)

registration.add_task(
  'rte_instructions_v001',
  glue.source('rte', fields=('sentence1', 'sentence2'), labels=glue.ENTAILMENT),
  functools.partial(texts.instruct, templates=TEMPLATES, labels=LABELS),
  [metrics.accuracy, metrics.invalid_predictions],
  functools.partial(metrics.label_to_class_id, label_classes=LABELS),
  cacheable=False,
)
