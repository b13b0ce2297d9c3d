"""Hugging Face's PyTorch T5, see `peers.py`."""

import peers
import torch
import transformers
from transformers import optimization


def train(config, steps):
  model = transformers.T5ForConditionalGeneration(config).train()
  optimizer = optimization.Adafactor(model.parameters())
  inputs = torch.tensor(peers.tokens(peers.INPUTS_LENGTH))
  labels = torch.tensor(peers.tokens(peers.TARGETS_LENGTH))

  def step():
    loss = model(input_ids=inputs, labels=labels).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()

  return peers.train_figures(step, steps)


def decode(config, batches):
  model = transformers.T5ForConditionalGeneration(config).eval()
  inputs = torch.tensor(peers.tokens(peers.PROMPT_LENGTH))

  @torch.inference_mode()
  def generate(num_beams):
    model.generate(
      inputs,
      attention_mask=torch.ones_like(inputs),
      num_beams=num_beams,
      do_sample=False,
      max_new_tokens=peers.NEW_TOKENS,
      min_new_tokens=peers.NEW_TOKENS,
    )

  return peers.decode_figures(generate, batches)


if __name__ == '__main__':
  peers.main(train, decode)
