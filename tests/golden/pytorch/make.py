"""Writes zip.bin and legacy.bin with PyTorch (2.13), for tests that run without it."""

import collections
import pathlib

import torch

numbers = torch.arange(24, dtype=torch.float32).reshape(4, 6)
tensors = collections.OrderedDict(
  whole=numbers,
  transposed=numbers.T,
  row=numbers[2],  # In the same storage, from an offset.
  half=torch.tensor([[1.5, -2.0]], dtype=torch.float16),
  brain=torch.tensor([3.0, 0.25], dtype=torch.bfloat16),
  parameter=torch.nn.Parameter(torch.tensor([7.0])),
  scalar=torch.tensor(5.0),
  empty=torch.zeros(0, 3),
)
tensors._metadata = collections.OrderedDict(version=1)  # As `Module.state_dict` has it.
for name, is_zip in (('zip', True), ('legacy', False)):
  file = pathlib.Path(__file__).with_name(f'{name}.bin')
  torch.save(tensors, file, _use_new_zipfile_serialization=is_zip)
