"""Prints what `t5x-lite plan` says of TPUs that are elsewhere, as JSON: {name: [exit status, stdout, stderr]}.

It is a program by itself, since planning for TPUs copies its process, which may not have used jax before.
"""

import contextlib
import io
import json

from t5x_lite import cli

LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}"
FSDP, BOTH = '--gin.MESH=@sharding.fsdp()', '--gin.MESH=@sharding.fsdp_tensor()'
# The slice, rows, and the mesh, of each published size.
SIZES = {
  't5_1_1_small': ('v5e:1x1', 32, FSDP),
  't5_1_1_base': ('v5e:1x1', 32, FSDP),
  't5_1_1_large': ('v5e:2x2', 64, FSDP),
  't5_1_1_xl': ('v5e:2x4', 64, BOTH),
  't5_1_1_xxl': ('v5e:4x8', 256, BOTH),
  't5_1_0_11b': ('v5e:16x16', 1024, BOTH),
}
FLAT = (
  '--gin_file=models/t5_1_1_small.gin',
  '--gin.T5Config.num_encoder_layers=2',
  '--gin.T5Config.num_decoder_layers=2',
  '--gin_file=runs/pretrain.gin',
)
SHORT = "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 24}"
ANY = '--gin.MESH=@sharding.MeshConfig()'
PLANS = {
  name: (
    f'--gin_file=models/{name}.gin',
    '--gin_file=runs/pretrain.gin',
    LENGTHS,
    f'--topology={topology}',
    f'--gin.BATCH_SIZE={rows}',
    mesh,
    '--gin.REMAT_POLICY=full',
  )
  for name, (topology, rows, mesh) in SIZES.items()
} | {
  'slices': (
    *(*FLAT, SHORT, '--topology=2xv5e:2x2', '--gin.BATCH_SIZE=64'),
    *(ANY, '--gin.MeshConfig.ici=(1, -1, 1)', '--gin.MeshConfig.dcn=(2, 1, 1)'),
  ),
  'inference': (
    *('--program=infer', *FLAT, LENGTHS, '--topology=v4:2x2x1', '--gin.BATCH_SIZE=512'),
    *('--gin.NUM_BEAMS=2', '--gin.WEIGHTS=int8'),
  ),
  'too large': (*FLAT, LENGTHS, '--topology=v5e:1x1', '--gin.BATCH_SIZE=2048'),
  'exact': (
    *('--gin_file=models/t5_1_1_tiny.gin', '--gin_file=runs/pretrain.gin', SHORT),
    *('--topology=v5e:1x1', '--gin.BATCH_SIZE=8', '--exact'),
  ),
  'search': (*FLAT, LENGTHS, '--topology=v5e:2x2', '--gin.BATCH_SIZE=512', '--search=6'),
  'search in vain': (
    *('--gin_file=models/t5_1_1_xxl.gin', '--gin_file=runs/pretrain.gin', SHORT),
    *('--topology=v5e:1x1', '--search'),
  ),
  'no slice': (*FLAT, SHORT, '--topology=v5e:3x7'),
  'no slices': (*FLAT, SHORT, '--topology=0xv5e:2x2'),
  'no topology': (*FLAT, SHORT, '--topology=pod'),
}


def plan(*arguments):
  """Returns (the exit status, what is printed, what is complained of)."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    status = cli.main(['plan', *arguments])
  return status, out.getvalue(), err.getvalue()


if __name__ == '__main__':
  print(json.dumps({name: plan(*arguments) for name, arguments in PLANS.items()}))
