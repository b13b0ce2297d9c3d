"""The vocabulary of tasks that leave it to the model."""

import functools
import http.server
import threading

import pytest
import seqio

from t5x_lite import choices, errors
from t5x_lite.data import model_vocabulary, vocabulary

TEXTS = ['a red fish and a blue bird', 'one fish two birds'] * 20


@pytest.fixture(autouse=True)
def none_chosen(tmp_path, monkeypatch):
  monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))
  model_vocabulary.open_vocabulary.cache_clear()
  yield
  choices.begin()
  model_vocabulary.open_vocabulary.cache_clear()


@pytest.fixture
def words(tmp_path):
  return vocabulary.train_sentencepiece(
    TEXTS, tmp_path / 'words.model', vocab_size=30, num_sentinels=8
  )


def test_it_is_what_was_chosen_last(tmp_path, words):
  model = model_vocabulary.MODEL
  choices.begin(vocabulary='bytes')
  assert model.vocab_size == 384 and model.eos_id == 1
  assert model.decode(model.encode('fish')) == 'fish'
  vocabulary.save(words, tmp_path / 'run' / 'vocabulary')
  for path in ('run', 'run/vocabulary'):
    choices.begin(vocabulary=str(tmp_path / path))
    assert model.vocab_size == 30
    assert model.encode('red fish') == words.encode('red fish')
    assert model.encode_tf('red fish').numpy().tolist() == words.encode('red fish')
    assert model.decode(words.encode('red fish')) == 'red fish'
    resolved = model_vocabulary.resolved(model)
    assert vocabulary.fingerprint(resolved) == vocabulary.fingerprint(words)
  choices.begin(vocabulary=str(tmp_path / 'words.model'))
  assert model.vocab_size == 22 + vocabulary.NUM_SENTINELS


def test_other_vocabularies_stand_for_themselves():
  mine = seqio.ByteVocabulary(extra_ids=3)
  assert model_vocabulary.resolved(mine) is mine


def test_a_run_is_found_from_its_folder_and_from_its_checkpoints(tmp_path, words):
  run = tmp_path / 'run'
  vocabulary.save(words, run / 'vocabulary')
  for path in (run, run / 'checkpoints' / '100'):
    choices.begin()
    model_vocabulary.choose_from(tmp_path / 'new', None, path)
    assert choices.current().vocabulary == str(run)
  choices.begin(vocabulary='bytes')
  model_vocabulary.choose_from(run)
  assert choices.current().vocabulary == 'bytes'


@pytest.mark.parametrize('name', ['byte', 'none.model', '.'])
def test_what_is_no_vocabulary_is_named(tmp_path, name, monkeypatch):
  monkeypatch.chdir(tmp_path)
  choices.begin(vocabulary=name)
  with pytest.raises(errors.UserError, match=f'--vocabulary={name} is neither'):
    model_vocabulary.MODEL.vocab_size  # noqa: B018


def serve(folder, monkeypatch):
  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(
    ('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder))
  )
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setattr(
    model_vocabulary, 'T5_URL', f'http://127.0.0.1:{server.server_address[1]}/words.model'
  )
  return server


def test_t5s_own_is_fetched_once_and_kept(tmp_path, words, monkeypatch):
  server = serve(tmp_path, monkeypatch)
  choices.begin()
  assert model_vocabulary.MODEL.encode('red fish') == words.encode('red fish')
  server.shutdown()
  server.server_close()
  model_vocabulary.open_vocabulary.cache_clear()
  assert model_vocabulary.MODEL.vocab_size == 122
  [kept] = (tmp_path / 'cache').iterdir()
  assert kept.read_bytes() == (tmp_path / 'words.model').read_bytes()


def test_what_cannot_be_fetched_leaves_nothing_and_says_what_to_give(tmp_path, monkeypatch):
  (tmp_path / 'words.model').write_bytes(b'<html>not a vocabulary</html>')
  server = serve(tmp_path, monkeypatch)
  for _ in range(2):  # What was fetched and is none; then nothing at all.
    with pytest.raises(errors.UserError, match='cannot be fetched from http.*--vocabulary=FILE'):
      model_vocabulary.open_vocabulary(None)
    assert not list((tmp_path / 'cache').iterdir())
    (tmp_path / 'words.model').unlink(missing_ok=True)
  server.shutdown()
  server.server_close()
