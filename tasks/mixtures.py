"""T5's mixtures of tasks (Raffel et al. 2020, section 3.5.2), and what others are made with.

    seqio.MixtureRegistry.add('my_glue', mixtures.proportional(('glue_cola_v002', 'glue_rte_v002')))

A task without the split that is read, such as one for evaluation alone, gives nothing to it.
"""

from collections.abc import Iterable

import seqio

from t5x_lite.data import mixing

# Examples to train on. Tasks without any are for evaluation; WNLI, whose dev set contradicts its training set, is trained
# as WSC and DPR.
GLUE = {
  'glue_cola_v002': 8551,
  'glue_sst2_v002': 67349,
  'glue_mrpc_v002': 3668,
  'glue_qqp_v002': 363849,
  'glue_stsb_v002': 5749,
  'glue_mnli_v002': 392702,
  'glue_qnli_v002': 104743,
  'glue_rte_v002': 2490,
  'glue_mnli_mismatched_v002': 0,
  'glue_mnli_matched_v002': 0,
  'glue_ax_v002': 0,
}
SUPER_GLUE = {
  'dpr_v001_simple': 1322,
  'super_glue_wsc_v102_simple_train': 259,
  'super_glue_wsc_v102_simple_eval': 0,
  'super_glue_boolq_v102': 9427,
  'super_glue_cb_v102': 250,
  'super_glue_copa_v102': 400,
  'super_glue_multirc_v102': 27243,
  'super_glue_record_v102': 138854,
  'super_glue_rte_v102': 2490,
  'super_glue_wic_v102': 5428,
  'super_glue_axb_v102': 0,
  'super_glue_axg_v102': 0,
}
TRANSLATION = ('wmt_t2t_ende_v003', 'wmt15_enfr_v003', 'wmt16_enro_v003')
LARGE = ('cnn_dailymail_v002', 'squad_v010_allanswers', *TRANSLATION)
SUPERVISED = (*GLUE, *SUPER_GLUE, *LARGE)
UNSUPERVISED = 'c4_v020_unsupervised'
# In place of the number of its documents, which would leave nothing for the others.
UNSUPERVISED_RATE = 1e6

Rates = list[tuple[str, float | mixing.ProportionalRate]]


def proportional(tasks: Iterable[str]) -> Rates:
  """Rates in proportion to the number of training examples, as MIXING_MAXIMUM and MIXING_TEMPERATURE limit them."""
  known = GLUE | SUPER_GLUE
  return [(name, mixing.ProportionalRate(known.get(name))) for name in tasks]


def equal(tasks: Iterable[str]) -> Rates:
  """The same rate for all."""
  return [(name, 1.0) for name in tasks]


def rte_once(rates: Rates) -> Rates:
  """Halves the rates of RTE, which is in GLUE and in SuperGLUE."""
  halved = mixing.ProportionalRate(GLUE['glue_rte_v002'], factor=0.5)
  return [(name, halved if 'glue_rte_' in name else rate) for name, rate in rates]


def with_sentinel(name: str) -> str:
  """Name of a task's variant whose targets begin with a sentinel."""
  if '_simple_' in name:
    return name.replace('_simple_', '_simple_1_sentinel_')
  return f'{name}_1_sentinel'


_ALL = (*SUPERVISED, UNSUPERVISED)
_WSC_AND_DPR = [name for name in SUPER_GLUE if 'wsc' in name or 'dpr' in name]
_LARGE_WITHOUT_QUESTIONS = ('wmt_t2t_ende_v003', 'wmt15_enfr_v003', 'cnn_dailymail_v002')

MIXTURES: dict[str, Rates] = {
  'glue_v002_proportional': proportional(GLUE),
  'super_glue_v102_proportional': proportional(SUPER_GLUE),
  'super_glue_v102_proportional_sentinel': [
    (with_sentinel(name), rate) for name, rate in proportional(SUPER_GLUE)
  ],
  'wsc_dpr_simple_proportional': proportional(_WSC_AND_DPR),
  'glue_mnli_and_dev_v002': equal(name for name in GLUE if 'mnli' in name),
  'en_mix': [
    (UNSUPERVISED, UNSUPERVISED_RATE),
    *proportional((*GLUE, *SUPER_GLUE, 'squad_v010_allanswers')),
  ],
  'all_equal': equal(_ALL),
  'all_proportional': rte_once(proportional(_ALL)),
  'all_mix': [(UNSUPERVISED, UNSUPERVISED_RATE), *rte_once(proportional(SUPERVISED))],
  'large_supervised_equal': equal(_LARGE_WITHOUT_QUESTIONS),
  'large_supervised_proportional': proportional(_LARGE_WITHOUT_QUESTIONS),
  'large_translation_equal': equal(TRANSLATION[:2]),
  'squad_trivia_qa_equal': equal(('squad_v010_allanswers', 'trivia_qa_v010')),
}
# Pre-trained on all but what is left out, a model is fine-tuned on that alone.
for _benchmark, _tasks in (
  ('glue_v002_proportional', GLUE),
  ('super_glue_v102_proportional', SUPER_GLUE),
):
  MIXTURES[f'leave_one_out_{_benchmark}'] = proportional(n for n in _ALL if n not in _tasks)
for _task in LARGE:
  MIXTURES[f'leave_one_out_{_task}'] = rte_once(proportional(n for n in _ALL if n != _task))

for _name, _rates in MIXTURES.items():
  seqio.MixtureRegistry.add(_name, _rates)
