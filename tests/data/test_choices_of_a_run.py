"""The objective and the rates that a run chooses for tasks and mixtures that leave them open."""

import pytest
import seqio

from t5x_lite import choices, errors
from t5x_lite.data import batches, mixing, objectives, sources
from t5x_lite.data import chosen_objective as chosen

VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
FEATURES = {name: seqio.Feature(VOCABULARY) for name in ('inputs', 'targets')}
LENGTHS = {'inputs': 64, 'targets': 70}
TEXTS = [f'{i} fish swam by and {i} birds looked on, as they do in the evening.' for i in range(40)]


def half(dataset, sequence_length, output_features, *, share=0.5):
  """An objective of a user's own."""
  del sequence_length, output_features
  return dataset.map(
    lambda e: {'inputs': e['targets'][: int(60 * share)], 'targets': e['targets'][60:]}
  )


@seqio.map_over_dataset
def to_targets(example):
  return {'targets': example['text']}


@pytest.fixture(scope='module', autouse=True)
def tasks():
  for name, count, objective in (
    ('open', 40, chosen.unsupervised),
    ('small', 10, chosen.unsupervised),
    ('fixed', 40, objectives.prefix_lm),
  ):
    seqio.TaskRegistry.add(
      f'chosen_{name}',
      source=sources.RowsDataSource(lambda split, n=count: {'text': TEXTS[:n]}, ('train',)),
      preprocessors=[
        to_targets,
        seqio.preprocessors.tokenize,
        objective,
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features=FEATURES,
    )
  counted = mixing.ProportionalRate()
  rates = [('chosen_open', counted), ('chosen_small', counted)]
  seqio.MixtureRegistry.add('chosen_mixture', rates)
  seqio.MixtureRegistry.add('chosen_outer', [('chosen_mixture', 1.0), ('chosen_fixed', 3.0)])
  yield
  for name in ('mixture', 'outer'):
    seqio.MixtureRegistry.remove(f'chosen_{name}')
  for name in ('open', 'small', 'fixed'):
    seqio.TaskRegistry.remove(f'chosen_{name}')


@pytest.fixture(autouse=True)
def none_chosen():
  yield
  choices.begin()


def first_batch(name='chosen_open', **changes):
  choices.begin(**changes)
  return next(batches.train_batches(batches.DatasetConfig(name, LENGTHS, batch_size=4, seed=0)))


def texts(batch, feature):
  return [VOCABULARY.decode(row.tolist()) for row in batch[feature]]


def test_an_objective_is_named_with_its_settings():
  default = first_batch()
  assert (
    default['encoder_input_tokens'] == first_batch(objective_settings={})['encoder_input_tokens']
  ).all()
  dense = first_batch(objective_settings={'noise_density': 0.4})

  def share_of_targets(batch):
    return (batch['decoder_target_tokens'] != 0).sum() / (batch['encoder_input_tokens'] != 0).sum()

  assert share_of_targets(dense) > 2 * share_of_targets(default)
  prefix = first_batch(objective='prefix_lm', objective_settings={'suffix_share': 0.25})
  joined = [
    a + b
    for a, b in zip(
      texts(prefix, 'encoder_input_tokens'), texts(prefix, 'decoder_target_tokens'), strict=True
    )
  ]
  assert all(any(text in whole for whole in TEXTS) for text in joined)


def test_an_objective_may_be_a_users_own():
  batch = first_batch(objective=f'{__name__}.half', objective_settings={'share': 0.1})
  assert all(len(text) == 6 for text in texts(batch, 'encoder_input_tokens'))


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'objective': 'prefix_lmm'},
      'OBJECTIVE=prefix_lmm: no such objective; did you mean prefix_lm',
    ),
    ({'objective': 'no_module.x'}, 'OBJECTIVE=no_module.x: No module named'),
    ({'objective_settings': {'density': 1}}, "span_corruption has no 'density', but noise_density"),
    ({'mixing_maximum': 5}, "MIXING_MAXIMUM=5 is for mixtures with .* and 'chosen_open' is none"),
  ],
)
def test_a_choice_that_cannot_be_is_named(changes, message):
  with pytest.raises(errors.UserError, match=message):
    first_batch(**changes)


def test_an_objective_for_a_task_that_has_its_own_is_refused():
  with pytest.raises(errors.UserError, match="'chosen_fixed' has its own"):
    first_batch('chosen_fixed', objective='deshuffling')


def test_a_position_in_the_data_belongs_to_what_was_chosen():
  config = batches.DatasetConfig('chosen_open', LENGTHS, batch_size=4, seed=0)
  iterator = batches.train_batches(config)
  next(iterator)
  state = iterator.get_state()
  choices.begin(objective='bert_style')
  with pytest.raises(errors.UserError, match='is one of objective=span_corruption, but this run'):
    batches.train_batches(config).set_state(state)


def test_rates_are_in_proportion_to_the_examples_up_to_a_maximum_and_by_a_temperature():
  mixture = seqio.MixtureRegistry.get('chosen_mixture')

  def rates():
    return {task.name: mixture.get_rate(task) for task in mixture.tasks}

  assert rates() == {'chosen_open': 40.0, 'chosen_small': 10.0}
  choices.begin(mixing_maximum=16)
  assert rates() == {'chosen_open': 16.0, 'chosen_small': 10.0}
  choices.begin(mixing_temperature=2.0)
  assert rates() == pytest.approx({'chosen_open': 40**0.5, 'chosen_small': 10**0.5})
  choices.begin(mixing_maximum=16, mixing_temperature=2.0)
  assert rates() == pytest.approx({'chosen_open': 4.0, 'chosen_small': 10**0.5})


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'mixing_maximum': 0}, 'MIXING_MAXIMUM=0 must be at least 1, or None'),
    ({'mixing_temperature': 0.0}, 'MIXING_TEMPERATURE=0.0 must be positive'),
  ],
)
def test_rates_out_of_range_are_refused(changes, message):
  with pytest.raises(errors.UserError, match=message):
    first_batch('chosen_mixture', **changes)


def test_a_mixture_of_mixtures_is_the_same_for_the_same_seed():
  mixture = seqio.MixtureRegistry.get('chosen_outer')
  assert {task.name for task in mixture.tasks} == {'chosen_open', 'chosen_small', 'chosen_fixed'}
  batch, again = first_batch('chosen_outer'), first_batch('chosen_outer')
  assert all((batch[name] == again[name]).all() for name in batch)
