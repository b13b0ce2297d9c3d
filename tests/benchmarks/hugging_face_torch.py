"""Measures Hugging Face's PyTorch T5, for decoding.py: hugging_face_torch.py MODEL BATCHES."""

import sys

import peers
import torch
import transformers


def main(model, batches):
  torch_model = transformers.T5ForConditionalGeneration(peers.config(model)).eval()
  inputs = torch.tensor(peers.inputs())
  figures = {}
  with torch.inference_mode():
    for way, num_beams in peers.NUM_BEAMS.items():

      def generate(num_beams=num_beams):
        torch_model.generate(
          inputs,
          attention_mask=torch.ones_like(inputs),
          num_beams=num_beams,
          do_sample=False,
          max_new_tokens=peers.NEW_TOKENS,
          min_new_tokens=peers.NEW_TOKENS,
        )

      figures[way] = peers.tokens_per_second(generate, batches)
  peers.tell(figures)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]))
