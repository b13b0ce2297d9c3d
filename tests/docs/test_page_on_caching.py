"""The commands of docs/caching.md, as they stand there; of those for clusters, the options."""

import re
import shlex

import pytest
from pages import ROOT, scripts

pytest.importorskip('apache_beam', reason="needs 't5x_lite[cache]'")


@pytest.mark.slow
def test_the_commands_of_the_page_on_caching_run(folder, shell):
  write_and_train, on_cores, measure = scripts('docs/caching.md')
  shell(write_and_train)
  assert (folder / 'my_cached_run' / 'checkpoints' / '4').exists()
  completed = folder / 'my_caches' / 'my_cached_text' / 'COMPLETED'
  first = completed.read_text()
  assert '300 of train, 20 of validation' in shell(on_cores)
  assert completed.read_text() != first
  quickly = measure.replace('bench data', 'bench data --gin.bench.data.seconds=0.1')
  assert 'cached_to_online_1_worker ' in shell(quickly)


def test_beam_knows_the_options_for_clusters():
  from apache_beam.options.pipeline_options import PipelineOptions

  page = (ROOT / 'docs' / 'caching.md').read_text(encoding='utf-8')
  all_words = re.findall(r"--pipeline_options='(.*?)'", page, re.DOTALL)
  assert len(all_words) == 4
  for words in all_words:
    options = PipelineOptions(shlex.split(words))
    known = options.get_all_options(drop_default=True)
    assert known == options.get_all_options(drop_default=True, retain_unknown_options=True)
    assert len(known) >= len(shlex.split(words))
