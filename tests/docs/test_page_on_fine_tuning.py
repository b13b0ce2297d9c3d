"""The commands of docs/fine_tuning.md, as they stand there."""

import pytest
from pages import scripts


@pytest.mark.slow
def test_the_commands_of_the_page_on_fine_tuning_run(folder, shell):
  for script in scripts('docs/fine_tuning.md'):
    shell(script)
  assert (folder / 'my_merged_ia3_model' / 'model.safetensors').exists()
  assert 'trainable parameters' in (folder / 'my_decoder_run' / 'sharding.txt').read_text()
  merged = [
    folder / name / 'model.safetensors' for name in ('my_merged_model', 'my_second_merged_model')
  ]
  assert merged[0].read_bytes() == merged[1].read_bytes()
