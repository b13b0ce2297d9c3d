"""The gin files of models: their shapes, and their parameters counted in three ways.

Gin imports this file as the module `test_model_files`, to configure `describe`.
"""

import math

import jax
import numpy as np
import pytest
import test_model_files as this_module

from t5x_lite import configuration
from t5x_lite.models import architectures, config


def describe(model: config.T5Config):
  return model


def model_of(name):
  overrides = ['DROPOUT_RATE=0.1', 'test_model_files.describe.model=%MODEL']
  configuration.parse([f'models/{name}.gin'], overrides)
  return configuration.configured(this_module.describe)()


# Columns of NUMERICS: d_model, heads, encoder and decoder layers, head_dim, d_ff; and the number
# of parameters, of the published checkpoints where there are some.
T5_1_0 = {
  'tiny': (8, 4, 2, 2, 3, 16, None),
  'small': (512, 8, 6, 6, 64, 2048, 60_506_624),
  'base': (768, 12, 12, 12, 64, 3072, 222_903_552),
  'large': (1024, 16, 24, 24, 64, 4096, 737_668_096),
  '3b': (1024, 32, 24, 24, 128, 16384, 2_851_598_336),
  '11b': (1024, 128, 24, 24, 128, 65536, 11_307_321_344),
  'base_6_layers': (768, 12, 6, 6, 64, 3072, 123_790_080),
  'base_shared': (768, 12, 12, 12, 64, 3072, 137_950_464),
  'base_language_model': (768, 12, 0, 12, 64, 3072, 109_628_544),
  'base_prefix_language_model': (768, 12, 0, 12, 64, 3072, 109_628_544),
}
T5_1_1 = {
  'tiny': (8, 4, 2, 2, 3, 16, None),
  'small': (512, 6, 8, 8, 64, 1024, 76_961_152),
  'base': (768, 12, 12, 12, 64, 2048, 247_577_856),
  'large': (1024, 16, 24, 24, 64, 2816, 783_150_080),
  'xl': (2048, 32, 24, 24, 64, 5120, 2_849_757_184),
  'xxl': (4096, 64, 24, 24, 64, 10240, 11_135_332_352),
}
MT5 = {
  'small': (*T5_1_1['small'][:-1], 300_176_768),
  'base': (*T5_1_1['base'][:-1], 582_401_280),
  'large': (*T5_1_1['large'][:-1], 1_229_581_312),
  'xl': (*T5_1_1['xl'][:-1], 3_742_619_648),
  'xxl': (*T5_1_1['xxl'][:-1], 12_921_057_280),
}
BYT5 = {
  'tiny': (8, 4, 3, 1, 4, 16, None),
  'small': (1472, 6, 12, 4, 64, 3584, 299_637_760),
  'base': (1536, 12, 18, 6, 64, 3968, 581_653_248),
  'large': (1536, 16, 36, 12, 64, 3840, 1_228_183_552),
  'xl': (2560, 32, 36, 12, 64, 6720, 3_737_801_728),
  'xxl': (4672, 64, 36, 12, 64, 12352, 12_906_899_328),
}
UMT5 = {
  'small': (*T5_1_1['small'][:-1], 306_601_984),
  'base': (*T5_1_1['base'][:-1], 592_043_520),
  'xl': (*T5_1_1['xl'][:-1], 3_768_356_864),
  'xxl': (*T5_1_1['xxl'][:-1], 12_972_531_712),
}
VOCABULARIES = {'t5_1_0': 32128, 't5_1_1': 32128, 'mt5': 250112, 'byt5': 384, 'umt5': 256384}
SIZES = {'t5_1_0': T5_1_0, 't5_1_1': T5_1_1, 'mt5': MT5, 'byt5': BYT5, 'umt5': UMT5}
FILES = [(family, size) for family, sizes in SIZES.items() for size in sizes]
ARCHITECTURES = {
  'base_shared': 'shared_encoder_decoder',
  'base_language_model': 'language_model',
  'base_prefix_language_model': 'prefix_language_model',
}
# As the papers have it: Xue et al. 2021, table 1; Xue et al. 2022, table 1.
ROUNDED = {
  'mt5': {'small': 300e6, 'base': 580e6, 'large': 1.2e9, 'xl': 3.7e9, 'xxl': 13e9},
  'byt5': {'small': 300e6, 'base': 582e6, 'large': 1.23e9, 'xl': 3.74e9, 'xxl': 12.9e9},
}


def test_every_model_file_is_of_a_size_or_a_family():
  names = {name for name in configuration.packaged_gin_files() if name.startswith('models/')}
  stems = [*SIZES, *(f'{family}_{size}' for family, size in FILES)]
  assert names == {f'models/{stem}.gin' for stem in stems}


def by_formula(model):
  """Counts parameters layer by layer, from the shapes alone."""
  joined = model.num_heads * model.head_dim
  attention = 4 * model.emb_dim * joined + model.emb_dim  # With its norm.
  mlp = (len(model.mlp_activations) + 1) * model.emb_dim * model.mlp_dim + model.emb_dim
  has_encoder = model.num_encoder_layers > 0
  decoder_layer = attention + mlp + (attention if has_encoder else 0)
  shared = model.architecture == 'shared_encoder_decoder'
  layers = model.num_decoder_layers * decoder_layer
  layers += 0 if shared else model.num_encoder_layers * (attention + mlp)
  tables = 1 + has_encoder
  if model.position_scheme == 'relative_bias_per_layer':
    tables = model.num_encoder_layers + model.num_decoder_layers
  tables *= model.num_heads * model.relative_attention_num_buckets
  norms = (1 + has_encoder) * model.emb_dim
  vocabularies = (1 if model.logits_via_embedding else 2) * model.vocab_size * model.emb_dim
  return layers + tables + norms + vocabularies


@pytest.mark.parametrize('family, size', FILES)
def test_model_files_give_the_published_sizes(family, size):
  emb_dim, num_heads, encoder_layers, decoder_layers, head_dim, mlp_dim, parameters = SIZES[family][
    size
  ]
  version_1_0 = family == 't5_1_0'
  model = model_of(f'{family}_{size}')
  assert model == config.T5Config(
    vocab_size=VOCABULARIES[family],
    emb_dim=emb_dim,
    num_heads=num_heads,
    head_dim=head_dim,
    mlp_dim=mlp_dim,
    num_encoder_layers=encoder_layers,
    num_decoder_layers=decoder_layers,
    mlp_activations=('relu',) if version_1_0 else ('gelu', 'linear'),
    logits_via_embedding=version_1_0,
    dropout_rate=0.1,
    dtype='bfloat16',
    architecture=ARCHITECTURES.get(size, 'encoder_decoder'),
    position_scheme='relative_bias_per_layer' if family == 'umt5' else 'relative_bias',
  )
  assert num_parameters(model) == by_formula(model)
  if parameters:
    assert by_formula(model) == parameters


@pytest.mark.parametrize('family, size', [(f, s) for f in ROUNDED for s in ROUNDED[f]])
def test_counts_are_those_of_the_papers_to_their_last_digit(family, size):
  published = ROUNDED[family][size]
  # ByT5's are given to three digits, mT5's to two.
  last_digit = 10 ** (math.floor(math.log10(published)) - (2 if family == 'byt5' else 1))
  counted = by_formula(model_of(f'{family}_{size}'))
  assert abs(counted - published) <= last_digit / 2, f'{counted:,} is not {published:,.0f}'


def num_parameters(model):
  tokens = np.ones((1, 2), np.int32)
  features = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  init = architectures.create(model).init
  shapes = jax.eval_shape(lambda key: init(key, dict.fromkeys(features, tokens)), jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(shapes))
