"""Tests of t5x_lite/configuration.py and of the gin files that describe runs.

Gin imports this file as the module `test_configuration`, to configure the functions below.
"""

import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Callable, Mapping

import gin
import optax
import pytest
import test_configuration as this_module

from t5x_lite import configuration, errors
from t5x_lite.commands import train as train_command
from t5x_lite.models import config


@dataclasses.dataclass(frozen=True)
class Shape:
  width: int
  depth: int = 2
  kind: typing.Literal['wide', 'deep'] = 'deep'


def steady(value: float = 1.0):
  return value


def momentum(learning_rate, decay: float = 0.9):
  return learning_rate, decay


def train(
  shape: Shape,
  model_dir: str,
  train_steps: int,
  optimizer: Callable | None = None,
  rate: float = 1.0,
  lengths: Mapping[str, int] | None = None,
  seed: int | None = 0,
):
  arguments = dict(locals())
  if optimizer:
    arguments['optimizer'] = optimizer(rate)
  return arguments


def fail(message: str):
  raise errors.UserError(message)


def describe(model: config.T5Config):
  return model


RUN = """
  from __gin__ import dynamic_registration
  import test_configuration

  SHAPE = @test_configuration.Shape()
  TRAIN_STEPS = %gin.REQUIRED
  OPTIMIZER = @test_configuration.momentum

  test_configuration.Shape.width = 4
  test_configuration.train:
    shape = %SHAPE
    model_dir = %MODEL_DIR
    train_steps = %TRAIN_STEPS
    optimizer = %OPTIMIZER
    rate = @test_configuration.steady()
"""


@pytest.fixture
def gin_file(tmp_path, monkeypatch):
  """A function that writes a gin file into the working directory and returns its name."""
  monkeypatch.chdir(tmp_path)

  def write(text, name='run.gin'):
    (tmp_path / name).write_text(textwrap.dedent(text))
    return name

  return write


@pytest.fixture
def run(gin_file):
  """A function that trains with overrides, laid over two that RUN needs."""
  name = gin_file(RUN)

  def configure_and_call(*overrides):
    configuration.parse([name], ['MODEL_DIR=/tmp/x', 'TRAIN_STEPS=5', *overrides])
    return configuration.configured(this_module.train)()

  return configure_and_call


def message_of(function, *args):
  with pytest.raises(errors.UserError) as caught:
    function(*args)
  message = str(caught.value)
  assert '\n' not in message
  return message


def test_references_give_instances_of_the_original_classes(run):
  arguments = run()
  assert type(arguments['shape']) is Shape
  assert arguments['shape'] == Shape(width=4)
  assert arguments['optimizer'] == (1.0, 0.9)


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    ('/tmp/run', '/tmp/run'),
    ('gs://bucket/a=b', 'gs://bucket/a=b'),
    ('3b', '3b'),
    ('1/2', '1/2'),
    ("it's", "it's"),
    ('two words', 'two words'),
    ("'quoted'", 'quoted'),
    ('"quoted"', 'quoted'),
    ('2024', '2024'),
    ('', ''),
  ],
)
def test_a_string_needs_no_quotes(run, text, value):
  assert run(f'MODEL_DIR={text}')['model_dir'] == value


@pytest.mark.parametrize(
  ('override', 'name', 'value'),
  [
    ('test_configuration.train.rate=-1e-3', 'rate', -1e-3),
    ('train.rate=2', 'rate', 2),
    ('train.seed=None', 'seed', None),
    ("train.lengths={'inputs': 128, 'targets': 32}", 'lengths', {'inputs': 128, 'targets': 32}),
    ('train.rate=%LEARNING_RATE', 'rate', 0.5),
    ('steady.value=3.0', 'rate', 3.0),
    ('Shape.kind=wide', 'shape', Shape(4, 2, 'wide')),
    ('momentum.decay=0.8', 'optimizer', (1.0, 0.8)),
    ('OPTIMIZER=@steady', 'optimizer', 1.0),
    ('OPTIMIZER=@operator.neg', 'optimizer', -1.0),
    ('OPTIMIZER=None', 'optimizer', None),
  ],
)
def test_overrides_take_values_references_and_macros(run, override, name, value):
  extra = ['LEARNING_RATE=0.5'] if '%' in override else []
  assert run(override, *extra)[name] == value


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('TRAIN_STEP=5', 'does not use this macro; did you mean TRAIN_STEPS?'),
    ('train.train_step=5', 'train has no parameter train_step; did you mean train_steps?'),
    ('Shape.height=5', 'Shape has no parameter height; it has width, depth, kind'),
    ('Shap.width=5', 'did you mean'),
    ('test_configuration.momentun.decay=0.5', 'did you mean momentum'),
    ('OPTIMIZER=@test_configuration.adam', 'test_configuration has no adam'),
    ('OPTIMIZER=@test_configuration', 'is a module, not a function or class'),
    ('test_configuration.fail.message=x', 'has no effect: test_configuration.train'),
    ('TRAIN_STEPS=abc', "TRAIN_STEPS='abc' for test_configuration.train.train_steps: int"),
    ('TRAIN_STEPS=1e3', 'TRAIN_STEPS=1000.0 for test_configuration.train.train_steps: int'),
    ('TRAIN_STEPS=True', 'int is wanted'),
    ('Shape.kind=tall', "Literal['wide', 'deep'] is wanted"),
    ('SHAPE=small', "SHAPE='small' for test_configuration.train.shape: Shape is wanted"),
    (
      'SHAPE=@Shape',
      'SHAPE=@Shape: Shape is wanted, so brackets: @Shape()',
    ),
    ('train.rate=@steady', 'float is wanted, so brackets: @steady()'),
    ('train.lengths=inputs:128', 'Mapping[str, int] | None is wanted'),
    ("train.lengths={'inputs': 128", 'is not a value in gin'),
    ('MODEL_DIR=%ROOT', 'ROOT is not set; pass --gin.ROOT=...'),
    ('MODEL_DIR=%MODEL_DIR', 'MODEL_DIR refers to itself'),
    ('SHAPE=@operator.neg()', 'operator.neg.a is not set'),
    ('=5', 'expected --gin.NAME=VALUE'),
    ('TRAIN STEPS=5', 'expected --gin.NAME=VALUE'),
    ('TRAIN_STEPS', 'expected --gin.NAME=VALUE'),
  ],
)
def test_a_mistake_on_the_command_line_is_named_in_one_line(run, override, message):
  assert message in message_of(run, override)


def test_brackets_that_a_command_wants_are_not_forgotten():
  required = ['MODEL_DIR=x', 'MIXTURE_OR_TASK_NAME=x', 'TASK_FEATURE_LENGTHS={}', 'TRAIN_STEPS=1']
  for override, message in (
    (
      'MESH=@sharding.fsdp',
      'MESH=@sharding.fsdp: MeshConfig is wanted, so brackets: @sharding.fsdp()',
    ),
    ('MODEL=small', "MODEL='small' for train.train.model: T5Config is wanted"),
    ('train.evaluation=@EvaluationConfig', 'EvaluationConfig | None is wanted, so brackets'),
  ):
    configuration.parse(['models/t5_1_1_small.gin', 'runs/pretrain.gin'], [*required, override])
    with pytest.raises(errors.UserError) as error:
      configuration.configured(train_command.train)(user_modules=())
    assert message in str(error.value)


def test_all_unset_macros_are_named_with_their_flags(gin_file):
  configuration.parse([gin_file(RUN)])
  assert message_of(configuration.configured(this_module.train)) == (
    'MODEL_DIR, TRAIN_STEPS are not set; pass --gin.MODEL_DIR=... --gin.TRAIN_STEPS=...'
  )


def test_a_parameter_without_a_value_is_named():
  configuration.parse([], ['test_configuration.train.model_dir=x'])
  assert message_of(configuration.configured(this_module.train)) == (
    'test_configuration.train.shape, test_configuration.train.train_steps are not set; pass '
    '--gin.test_configuration.train.shape=... --gin.test_configuration.train.train_steps=...'
  )


def test_a_run_file_that_was_forgotten_is_named():
  configuration.parse(['models/t5_1_1_tiny.gin'], ['MODEL_DIR=/tmp/run'])
  message = message_of(configuration.configured(this_module.train))
  assert 'no gin file sets anything of test_configuration.train' in message
  assert 'runs/pretrain.gin' in message


def test_a_model_file_that_was_forgotten_is_named():
  configuration.parse([], ['test_configuration.describe.model=%MODEL'])
  assert message_of(configuration.configured(this_module.describe)) == (
    'MODEL is not set; pass --gin_file=models/...'
  )


def test_the_caller_may_give_arguments_that_gin_does_not():
  configuration.parse([])
  call = configuration.configured(this_module.train)
  assert call(Shape(3), model_dir='x', train_steps=1)['shape'] == Shape(3)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('X = {1: 2', 'run.gin:'),
    ('X = ', 'run.gin:4: '),
    ('X = foo', 'run.gin:4: '),
    ('X 3', "run.gin:4: Couldn't parse statement, expected ':' or '='. in `X 3`"),
    ('momentum.dekay = 3', 'run.gin:4: momentum has no parameter dekay; did you mean decay?'),
    ('X = @test_configuration.momentun', 'run.gin:4: '),
    ('import no_such_module', 'run.gin:4: cannot run `import no_such_module`'),
    ('from t5x_lite import no_such', 'run.gin:4: cannot run `from t5x_lite import no_such`'),
    ("include 'no_such.gin'", 'run.gin:4: no gin file no_such.gin'),
    ("include 'run.gin'", 'run.gin:4: run.gin includes itself'),
  ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(gin_file, line, message):
  name = gin_file(
    f'from __gin__ import dynamic_registration\nimport test_configuration\n\n{line}\n'
  )
  configuration.parse([])
  assert message in message_of(configuration.parse, [name])


def test_a_module_that_does_not_compile_is_named(gin_file, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'does_not_compile.py').write_text('def f(:\n')
  message = message_of(configuration.parse, [gin_file('import does_not_compile\n')])
  assert 'run.gin:1: cannot run' in message
  assert 'does_not_compile.py, line 1' in message


def test_a_missing_file_says_where_it_was_sought_and_what_there_is(tmp_path):
  message = message_of(configuration.parse, ['models/t5_1_1_smal.gin'], [], [tmp_path])
  assert str(tmp_path) in message
  assert 'did you mean models/t5_1_1_small.gin' in message


def test_files_are_found_in_search_paths_and_beside_the_file_that_includes_them(
  gin_file, tmp_path, monkeypatch
):
  folder = tmp_path / 'elsewhere'
  folder.mkdir()
  gin_file("include 'shared.gin'\n", 'elsewhere/outer.gin')
  gin_file(RUN, 'elsewhere/shared.gin')
  configuration.parse(['outer.gin'], ['MODEL_DIR=x', 'TRAIN_STEPS=1'], [folder])
  assert configuration.configured(this_module.train)()['train_steps'] == 1


def test_the_operative_config_repeats_the_run_and_can_be_changed(run, gin_file):
  expected = run('steady.value=0.25')
  text = configuration.operative_config()
  configuration.parse([gin_file(text, 'operative.gin')])
  assert configuration.configured(this_module.train)() == expected
  assert configuration.operative_config() == text

  configuration.parse(['operative.gin'], ['Shape.width=9', 'TRAIN_STEPS=6'])
  changed = configuration.configured(this_module.train)()
  assert changed['shape'].width == 9
  assert changed['train_steps'] == 6


def test_the_operative_config_holds_defaults_and_leaves_out_what_is_not_used(run):
  run('OPTIMIZER=None')
  text = configuration.operative_config()
  assert 'test_configuration.train.seed = 0' in text
  assert 'test_configuration.Shape.depth = 2' in text
  assert 'momentum' not in text


def test_errors_inside_the_function_come_out_as_they_were_raised():
  configuration.parse([], ['test_configuration.fail.message=broken'])
  with pytest.raises(errors.UserError) as caught:
    configuration.configured(this_module.fail)()
  assert type(caught.value) is errors.UserError
  assert str(caught.value) == 'broken'


def test_errors_inside_a_reference_come_out_as_they_were_raised(gin_file):
  model = 'test_configuration.describe.model=%MODEL'
  configuration.parse(['models/t5_1_1_tiny.gin'], [model, 'DROPOUT_RATE=1.5'])
  assert message_of(configuration.configured(this_module.describe)) == (
    'T5Config.dropout_rate=1.5 is not in [0, 1)'
  )


def model_of(name, *overrides):
  overrides = ['DROPOUT_RATE=0.1', 'test_configuration.describe.model=%MODEL', *overrides]
  configuration.parse([f'models/{name}.gin'], overrides)
  return configuration.configured(this_module.describe)()


def test_model_macros_and_parameters_can_be_overridden():
  model = model_of(
    't5_1_1_tiny',
    'DTYPE=float32',
    'SCAN_LAYERS=False',
    'REMAT_POLICY=full',
    'T5Config.vocab_size=512',
  )
  assert (model.dtype, model.scan_layers, model.remat_policy) == ('float32', False, 'full')
  assert model.vocab_size == 512


RUN_MACROS = [
  'MODEL_DIR=/tmp/run',
  'MIXTURE_OR_TASK_NAME=my_task',
  "TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
  'TRAIN_STEPS=2000',
]


@pytest.mark.parametrize(
  ('files', 'extra', 'dropout_rate', 'learning_rate'),
  [
    (['runs/pretrain.gin'], [], 0.0, 0.01),
    (['runs/finetune.gin'], ['INITIAL_CHECKPOINT_PATH=/tmp/other'], 0.1, 1e-3),
    (['runs/pretrain.gin', 'optimizers/adamw.gin'], [], 0.0, 1e-3),
    (['runs/pretrain.gin', 'optimizers/lion.gin'], [], 0.0, 1e-4),
    (['runs/pretrain.gin'], ['OPTIMIZER=@optax.sgd', 'optax.sgd.momentum=0.9'], 0.0, 0.01),
  ],
)
def test_run_files_build_what_training_takes(files, extra, dropout_rate, learning_rate):
  configuration.parse(['models/t5_1_1_tiny.gin', *files], [*RUN_MACROS, *extra])
  arguments = gin.get_bindings(train_command.train)
  signature = inspect.signature(train_command.train)
  signature.bind(**arguments)

  assert arguments['model_dir'] == '/tmp/run'
  assert arguments['model'].dropout_rate == dropout_rate
  assert arguments['dataset'].split == 'train'
  assert arguments['dataset'].task_feature_lengths == {'inputs': 16, 'targets': 8}
  assert arguments['loop'].train_steps == 2000
  assert arguments['loss'].z_loss == 1e-4
  assert arguments['learning_rate'](1000) == pytest.approx(learning_rate)
  optimizer = arguments['optimizer'](arguments['learning_rate'])
  assert isinstance(optimizer, optax.GradientTransformation)


def test_a_short_name_is_one_of_this_configuration_not_of_an_earlier_one():
  with pytest.raises(errors.UserError):
    configuration.configured(this_module.train)()  # Which makes its name known to gin.
  configuration.parse(['runs/pretrain.gin'], ['train.num_microbatches=2'])
  assert gin.query_parameter('t5x_lite.commands.train.train.num_microbatches') == 2


@pytest.mark.parametrize(
  ('file', 'also'), [('runs/pretrain.gin', []), ('runs/finetune.gin', ['INITIAL_CHECKPOINT_PATH'])]
)
def test_run_files_ask_for_what_only_the_user_knows(file, also):
  configuration.parse(['models/t5_1_1_tiny.gin', file])
  message = message_of(configuration.configured(train_command.train))
  names = message.partition(' are not set')[0].split(', ')
  assert set(names) == {override.partition('=')[0] for override in RUN_MACROS} | set(also)


def test_every_packaged_gin_file_parses():
  for name in configuration.packaged_gin_files():
    configuration.parse([name])
