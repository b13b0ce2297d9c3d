"""Training, keeping and comparing vocabularies."""

import json

import pytest
import seqio
import tensorflow as tf

from t5x_lite import errors
from t5x_lite.data import sources, vocabulary

_WORDS = 'the quick brown fox jumps over a lazy dog while seven wizards vex my big sphinx of quartz'
_TEXTS = [' '.join(_WORDS.split()[i:] + _WORDS.split()[:i]) + '.' for i in range(18)] * 3


def _train(path, **options):
  return vocabulary.train_sentencepiece(
    _TEXTS, path, **({'vocab_size': 56, 'num_sentinels': 10} | options)
  )


def test_ids_are_t5s(tmp_path):
  trained = _train(tmp_path / 'new' / 'a.model')
  assert (trained.pad_id, trained.eos_id, trained.unk_id) == (0, 1, 2)
  assert trained.vocab_size == 56
  assert trained.encode('<extra_id_0>') == [55]
  assert trained.encode('<extra_id_9>') == [46]
  assert (
    trained.decode(trained.encode('a lazy fox <extra_id_1> jumps'))
    == 'a lazy fox <extra_id_1> jumps'
  )
  assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.model']


def test_the_same_text_gives_the_same_vocabulary_under_another_name(tmp_path):
  first = vocabulary.fingerprint(_train(tmp_path / 'a.model'))
  assert first == vocabulary.fingerprint(_train(tmp_path / 'b.model'))
  assert first == json.loads(json.dumps(first))
  assert first['size'] == 56
  others = [
    vocabulary.fingerprint(_train(tmp_path / 'c.model', vocab_size=57)),
    vocabulary.fingerprint(_train(tmp_path / 'd.model', num_sentinels=9)),
    vocabulary.fingerprint(_train(tmp_path / 'e.model', model_type='bpe')),
  ]
  assert first not in others


def test_fingerprints_of_bytes_tell_extra_ids_apart():
  plain, again, more = (vocabulary.fingerprint(seqio.ByteVocabulary(n)) for n in (0, 0, 100))
  assert plain == again != more
  with pytest.raises(errors.UserError, match='run/1 .*bytes, 259 ids.* not that of my_task .*359'):
    vocabulary.check_same(plain, more, model='run/1', task='my_task')
  vocabulary.check_same(plain, again)


def test_any_other_vocabulary_has_a_fingerprint_by_what_its_ids_decode_to():
  first = vocabulary.fingerprint(seqio.vocabularies.UnigramVocabulary(['a', 'b']))
  assert first == vocabulary.fingerprint(seqio.vocabularies.UnigramVocabulary(['a', 'b']))
  assert first != vocabulary.fingerprint(seqio.vocabularies.UnigramVocabulary(['b', 'a']))


def test_a_saved_vocabulary_loads_from_another_place_with_the_same_ids(tmp_path):
  trained = _train(tmp_path / 'a.model')
  vocabulary.save(trained, tmp_path / 'run')
  (tmp_path / 'run').rename(tmp_path / 'moved')
  (tmp_path / 'a.model').unlink()
  loaded = vocabulary.load(tmp_path / 'moved')
  assert vocabulary.fingerprint(loaded) == vocabulary.fingerprint(trained)
  assert (loaded.extra_ids, loaded.encode(_WORDS)) == (10, trained.encode(_WORDS))


@pytest.mark.parametrize(
  'kept', [seqio.ByteVocabulary(extra_ids=7), seqio.PassThroughVocabulary(50, eos_id=1)]
)
def test_vocabularies_without_a_file_load_too(tmp_path, kept):
  vocabulary.save(kept, tmp_path)
  assert vocabulary.load(tmp_path) == kept


def test_a_folder_whose_vocabulary_is_missing_or_exchanged_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='keeps no vocabulary'):
    vocabulary.load(tmp_path)
  vocabulary.save(_train(tmp_path / 'a.model'), tmp_path / 'a')
  vocabulary.save(_train(tmp_path / 'b.model', vocab_size=50), tmp_path / 'b')
  (tmp_path / 'b' / 'sentencepiece.model').replace(tmp_path / 'a' / 'sentencepiece.model')
  with pytest.raises(errors.UserError, match='56 ids.* is not that of .*50 ids'):
    vocabulary.load(tmp_path / 'a')
  vocabulary.save(seqio.vocabularies.UnigramVocabulary(['a']), tmp_path / 'c')
  with pytest.raises(errors.UserError, match='name a task that has it'):
    vocabulary.load(tmp_path / 'c')


def test_a_size_that_does_not_suit_the_text_is_told_with_what_would(tmp_path):
  with pytest.raises(errors.UserError, match='no vocabulary of 5000 ids.* text for .* at most'):
    _train(tmp_path / 'a.model', vocab_size=5000)
  with pytest.raises(errors.UserError, match='no room for pieces'):
    _train(tmp_path / 'a.model', vocab_size=12)
  with pytest.raises(errors.UserError, match='no vocabulary of 56 ids'):
    vocabulary.train_sentencepiece([], tmp_path / 'a.model', vocab_size=56, num_sentinels=10)
  assert not (tmp_path / 'a.model').exists()


def test_a_mistake_in_the_texts_is_not_taken_for_one_of_sentencepiece(tmp_path):
  def texts():
    yield 'one'
    raise errors.UserError('a.jsonl, line 2: no field')

  with pytest.raises(errors.UserError, match='^a.jsonl, line 2: no field$'):
    vocabulary.train_sentencepiece(texts(), tmp_path / 'a.model', vocab_size=56, num_sentinels=10)


def test_long_lines_are_cut_at_spaces_and_nothing_is_lost():
  line = 'word ' * 2000 + 'x' * 9000
  cut = list(vocabulary._lines([line, 'next\n\nlast']))
  assert ''.join(cut[:-2]) == line
  assert cut[-2:] == ['next', 'last']
  assert max(map(len, cut)) <= 4000


def _texts_once():
  return _TEXTS


def test_a_vocabulary_trains_when_first_used_and_then_reads_its_file(tmp_path):
  path = tmp_path / 'cache' / 'v.model'
  lazy = vocabulary.TrainedOnFirstUse(str(path), _texts_once, vocab_size=56, num_sentinels=10)
  assert not path.exists()
  assert lazy.encode('<extra_id_0>') == [55]
  written = path.stat().st_mtime_ns
  again = vocabulary.TrainedOnFirstUse(str(path), _texts_once, vocab_size=56, num_sentinels=10)
  assert again == lazy
  assert again.encode_tf(tf.constant('fox')).numpy().tolist() == lazy.encode('fox')
  assert path.stat().st_mtime_ns == written


def test_texts_of_a_task_are_those_it_tokenizes():
  feature = seqio.Feature(seqio.ByteVocabulary())
  task = seqio.Task(
    'vocabulary_texts',
    source=sources.RowsDataSource(lambda split: {'a': ['x', 'y'], 'b': ['1', '']}, ['train']),
    preprocessors=[
      lambda dataset: seqio.preprocessors.rekey(dataset, key_map={'inputs': 'a', 'targets': 'b'}),
      seqio.preprocessors.tokenize,
    ],
    output_features={'inputs': feature, 'targets': feature},
  )
  assert list(vocabulary.task_texts(task)) == ['x', '1', 'y']
  assert list(vocabulary.task_texts(task, max_examples=1)) == ['x', '1']
  with pytest.raises(errors.UserError, match='has no seqio.preprocessors.tokenize'):
    list(vocabulary.task_texts(task.replace(name='no_tokenize', preprocessors=[])))
