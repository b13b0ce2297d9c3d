"""Writes a tiny random umT5 with its logits, by Hugging Face's transformers (5.23), for tests that run without it."""

import pathlib

import numpy as np
import torch
import transformers

folder = pathlib.Path(__file__).parent
torch.manual_seed(0)
config = transformers.UMT5Config(
  vocab_size=32, d_model=8, num_heads=2, d_kv=3, d_ff=16, num_layers=2, num_decoder_layers=3,
  feed_forward_proj='gated-gelu', tie_word_embeddings=False,
)  # fmt: skip
model = transformers.UMT5ForConditionalGeneration(config).eval()
for name, parameter in model.named_parameters():
  if 'relative_attention_bias' in name:  # So that each layer's table shows in the logits.
    torch.nn.init.normal_(parameter, std=1.0)
model.save_pretrained(folder)
rng = np.random.default_rng(0)
inputs, targets = rng.integers(1, 32, (2, 24)), rng.integers(1, 32, (2, 20))
inputs[1, 15:] = 0
decoder_inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
with torch.no_grad():
  logits = model(
    input_ids=torch.tensor(inputs),
    attention_mask=torch.tensor(inputs > 0),
    decoder_input_ids=torch.tensor(decoder_inputs),
  ).logits.numpy()
np.savez(folder / 'expected.npz', inputs=inputs, targets=targets, logits=logits)
