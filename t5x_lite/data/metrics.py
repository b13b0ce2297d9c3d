"""Metric and post-processing functions for seqio tasks; percentages from 0 to 100, as T5 reports them.

A metric is a function of targets and predictions, as the task's post-processing leaves them. Each is computed by the
library that the original T5 computes it with, where there is one.
"""

import collections
import functools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

INVALID = -1


def label_to_class_id(text: str, *, label_classes: Sequence[str], **unused_kwargs) -> int:
  """Post-processes a decoded label.

  Args:
    text: what the model wrote, or a target.
    label_classes: the labels' texts by class id.
    **unused_kwargs: what else seqio passes to post-processors (`example`, `is_target`).

  Returns:
    The class id; INVALID (-1) for text that is no label.
  """
  text = text.strip()
  return label_classes.index(text) if text in label_classes else INVALID


def text_to_float(text: str, *, default: float = -1.0, **unused_kwargs) -> float:
  """Post-processes a decoded number; text that is no finite number becomes `default`."""
  try:
    number = float(text)
  except ValueError:
    return default
  return number if np.isfinite(number) else default


def accuracy(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Share of predictions equal to their target, in percent. INVALID predictions are wrong."""
  return {'accuracy': 100.0 * float(np.mean(np.equal(targets, predictions)))}


def sequence_accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Share of predictions, of any type, equal to their target, in percent."""
  equal = [prediction == target for target, prediction in zip(targets, predictions, strict=True)]
  return {'sequence_accuracy': 100.0 * float(np.mean(equal))}


def all_match(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """100 if every prediction equals its target, else 0: for use in `mean_group_metric`."""
  return {'exact_match': 100.0 * float(np.array_equal(targets, predictions))}


def invalid_predictions(
  targets: Sequence[int], predictions: Sequence[int | Mapping[str, int]]
) -> dict[str, float]:
  """Share of predictions that are no label at all, in percent: high before a model knows its task.

  Args:
    targets: not used.
    predictions: class ids, or dicts with them as `value`.
  """
  del targets
  predictions = [each['value'] if isinstance(each, Mapping) else each for each in predictions]
  return {'invalid_predictions': 100.0 * float(np.mean(np.equal(predictions, INVALID)))}


def matthews_corrcoef(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Matthews' correlation times 100, for CoLA. INVALID is a class that no target has."""
  from sklearn import metrics

  return {'matthews_corrcoef': 100.0 * float(metrics.matthews_corrcoef(targets, predictions))}


def f1_score_with_invalid(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """F1 of class 1 of two, in percent; a prediction that is neither counts as the wrong one."""
  from sklearn import metrics

  targets, predictions = np.asarray(targets), np.asarray(predictions)
  is_valid = (predictions == 0) | (predictions == 1)
  predictions = np.where(is_valid, predictions, 1 - targets)
  return {'f1': 100.0 * float(metrics.f1_score(targets, predictions, zero_division=0.0))}


def mean_multiclass_f1(
  targets: Sequence[int], predictions: Sequence[int], *, num_classes: int
) -> dict[str, float]:
  """Unweighted mean of the F1 of each class, in percent, for CB.

  Args:
    targets, predictions: class ids.
    num_classes: give it with functools.partial.
  """
  from sklearn import metrics

  labels = range(num_classes)
  f1 = metrics.f1_score(targets, predictions, labels=labels, average='macro', zero_division=0.0)
  return {f'mean_{num_classes}class_f1': 100.0 * float(f1)}


def pearson_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
  """Pearson's correlation times 100, for STS-B; 0 where it is undefined, as one of the two is constant."""
  from scipy import stats

  return {'pearson_corrcoef': _correlation(stats.pearsonr, targets, predictions)}


def spearman_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
  """Spearman's rank correlation times 100; 0 where it is undefined, as one of the two is constant."""
  from scipy import stats

  return {'spearman_corrcoef': _correlation(stats.spearmanr, targets, predictions)}


def _correlation(function, targets, predictions):
  if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
    return 0.0
  return 100.0 * float(function(targets, predictions)[0])


def bleu(
  targets: Sequence[str] | Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
  """Corpus BLEU by sacrebleu, with its tokenizer 'intl' and exponential smoothing, as T5 reports it.

  Args:
    targets: one reference for each prediction; or lists of such, one for each set of references.
    predictions: decoded texts.
  """
  import sacrebleu

  references = [targets] if isinstance(targets[0], str) else targets
  score = sacrebleu.corpus_bleu(predictions, references, smooth_method='exp', tokenize='intl')
  return {'bleu': float(score.score)}


_ROUGE_TYPES = ('rouge1', 'rouge2', 'rougeLsum')


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """ROUGE-1, ROUGE-2 and ROUGE-Lsum, F-measures in percent, by rouge_score.

  Each is the median over 1,000 bootstrap samples of the mean, as T5 reports it; the samples are the same each time.
  """
  from rouge_score import rouge_scorer, scoring

  scorer = rouge_scorer.RougeScorer(_ROUGE_TYPES)
  aggregator = scoring.BootstrapAggregator()
  for target, prediction in zip(targets, predictions, strict=True):
    # Sentences are on lines of their own for ROUGE-Lsum.
    aggregator.add_scores(scorer.score(*(t.replace(' . ', ' .\n') for t in (target, prediction))))
  before = np.random.get_state()  # The aggregator draws from NumPy's global generator.
  np.random.seed(0)
  try:
    result = aggregator.aggregate()
  finally:
    np.random.set_state(before)
  return {name: 100.0 * float(result[name].mid.fmeasure) for name in _ROUGE_TYPES}


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Exact match and F1 of SQuAD, in percent, of the best of each question's answers.

  Texts are compared in lower case, without punctuation and articles, as by SQuAD's own script.

  Args:
    targets: the answers to each question.
    predictions: decoded texts.
  """
  return _question_answering(targets, predictions, _normalized_for_squad)


def trivia_qa(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """`squad` with TriviaQA's rules: punctuation parts words."""
  return _question_answering(targets, predictions, _normalized_for_trivia_qa)


def span_squad(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]
) -> dict[str, float]:
  """`squad` of predictions such as 'start: 3 end: 6', places of words in a text.

  Args:
    targets: `context` and `answers` of each question.
    predictions: decoded texts; one of another form answers nothing.
  """

  def answer(context, prediction):
    match = re.match(r'\W*\w+\W+(\d+)\W+\w+\W+(\d+)\b', prediction)
    if not match:
      return ''
    first, last = map(int, match.groups())
    return ' '.join(_NO_WORD.sub(' ', context).split()[first : last + 1])

  spans = [answer(t['context'], p) for t, p in zip(targets, predictions, strict=True)]
  return squad([t['answers'] for t in targets], spans)


def mean_group_metric(metric: Callable, group_key: str = 'group', value_key: str = 'value'):
  """Returns a metric that is the mean of another one over groups of examples, as MultiRC's questions.

  Args:
    metric: a metric.
    group_key: what in the targets, which are dicts, names the group.
    value_key: what in targets and predictions goes to `metric`.
  """

  def grouped(targets, predictions):
    groups = collections.defaultdict(lambda: ([], []))
    for target, prediction in zip(targets, predictions, strict=True):
      for values, example in zip(groups[target[group_key]], (target, prediction), strict=True):
        values.append(example[value_key])
    results = [metric(*values) for values in groups.values()]
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}

  grouped.__name__ = f'{metric.__name__}_by_group'
  return grouped


def deduplicate_metric(metric: Callable, group_key: str = 'group', value_key: str = 'value'):
  """Returns a metric of the first example in each group, as of ReCoRD's, which has one for each answer.

  Args are those of `mean_group_metric`.
  """

  def deduplicated(targets, predictions):
    first = {}
    for target, prediction in zip(targets, predictions, strict=True):
      first.setdefault(target[group_key], (target[value_key], prediction[value_key]))
    return metric(*map(list, zip(*first.values(), strict=True)))

  deduplicated.__name__ = f'deduplicated_{metric.__name__}'
  return deduplicated


def multirc_f1_over_all_answers(
  targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
  """`f1_score_with_invalid` of the `value` of all examples, whatever their question."""
  return f1_score_with_invalid([t['value'] for t in targets], [p['value'] for p in predictions])


_NO_WORD = re.compile(r'\W')
_ARTICLES = re.compile(r'\b(?:a|an|the)\b')


def _normalized(text, punctuation):
  return ' '.join(_ARTICLES.sub(' ', text.lower().translate(punctuation)).split())


_normalized_for_squad = functools.partial(
  _normalized, punctuation=str.maketrans('', '', string.punctuation)
)
_normalized_for_trivia_qa = functools.partial(
  _normalized, punctuation=str.maketrans(dict.fromkeys(f'{string.punctuation}‘’´`_', ' '))
)


def _question_answering(targets, predictions, normalized):
  exact, f1 = [], []
  for answers, prediction in zip(targets, predictions, strict=True):
    prediction = normalized(prediction)
    answers = [normalized(answer) for answer in answers]
    exact.append(prediction in answers)
    f1.append(max(_f1(answer.split(), prediction.split()) for answer in answers))
  return {'em': 100.0 * float(np.mean(exact)), 'f1': 100.0 * float(np.mean(f1))}


def _f1(answer, prediction):
  common = (collections.Counter(answer) & collections.Counter(prediction)).total()
  return 2 * common / (len(answer) + len(prediction)) if common else 0.0
