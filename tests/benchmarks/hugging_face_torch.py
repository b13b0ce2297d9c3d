"""Hugging Face's PyTorch T5, see `peers.py`."""

import peers
import torch
import transformers
from transformers import optimization


def create(config):
  """The model. Transformers 5 has either one matrix for all tokens or three; T5 1.1 has one for texts, one for logits."""
  is_tied, config.tie_word_embeddings = config.tie_word_embeddings, True
  model = transformers.T5ForConditionalGeneration(config)
  if not is_tied:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    config.tie_word_embeddings = False
  return model


def train(config, steps):
  model = create(config).train()
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
  model = create(config).eval()
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
