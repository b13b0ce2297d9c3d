"""What a compiled train step computes, against what the model needs by its shapes."""

import pytest

from t5x_lite import losses, sharding
from t5x_lite.models.config import T5Config
from t5x_lite.planning import estimate, programs, work
from t5x_lite.training import optimizers


@pytest.mark.parametrize('scan_layers', [True, False])
@pytest.mark.parametrize(
  ('remat_policy', 'least', 'most'),
  [('none', 1.0, 1.001), ('full', 1.2, 1.3)],
)
def test_executed_flops_are_those_of_the_model_and_what_is_recomputed(
  scan_layers, remat_policy, least, most
):
  step = programs.TrainStep(
    model=T5Config(
      vocab_size=512, emb_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_encoder_layers=3,
      num_decoder_layers=3, dtype='float32', remat_policy=remat_policy, scan_layers=scan_layers,
    ),
    mesh=sharding.data_parallel(),
    topology=None,
    batch_size=8,
    lengths={'inputs': 128, 'targets': 64},
    pack=True,
    optimizer=optimizers.adafactor,
    learning_rate=1e-3,
    loss=losses.LossConfig(),
    trainable_parameters='.*',
    num_microbatches=1,
  )  # fmt: skip
  program = step.lower(step.abstract_state())
  compiled, _ = estimate.compile_for(program, step.devices)
  executed = work.flops(compiled) * len(step.devices)
  assert least <= executed / program.model_flops <= most
