"""A run in a bucket, through the protocol of Google Cloud Storage; the service is a folder of this machine."""

import importlib.util
import json

import byte_runs
import pytest
from etils import epath

if not all(map(importlib.util.find_spec, ('gcp_storage_emulator', 'moto'))):
  pytest.skip("needs pip install 't5x_lite[test]'", allow_module_level=True)

SHORT = ('--gin.EVAL_PERIOD=2', '--gin.EVAL_EXAMPLES=4', '--gin.CHECKPOINT_PERIOD=2')


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """Folder with what is in gs://bucket."""
  from gcp_storage_emulator import server

  emulator = server.create_server(
    'localhost', 0, in_memory=False, default_bucket='bucket', data_dir=str(tmp_path / 'service')
  )
  emulator.start()
  try:
    host, port = emulator._api._httpd.server_address[:2]
    for name in ('STORAGE_EMULATOR_HOST', 'TENSORSTORE_GCS_HTTP_URL'):
      monkeypatch.setenv(name, f'http://{host}:{port}')
    monkeypatch.setenv('GOOGLE_CLOUD_PROJECT', 'project')
    # Else gcsfs asks a part of the service that the emulator has not what kind of bucket it is.
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    yield tmp_path / 'service' / '.cloudstorage' / 'bucket'
  finally:
    emulator.stop()


@pytest.mark.slow
def test_a_run_in_a_bucket_is_resumed_evaluated_and_asked(main, bucket, tmp_path):
  run = bucket / 'runs' / 'mine'
  arguments = ('train', *byte_runs.FINETUNE, *SHORT, '--gin.CheckpointManager.keep_last=1')
  for steps in (4, 6):
    status, _, err = main(
      *arguments, f'--gin.TRAIN_STEPS={steps}', '--gin.INITIAL_CHECKPOINT_PATH=None',
      '--gin.MODEL_DIR=gs://bucket/runs/mine',
    )  # fmt: skip
    assert status == 0, err
  assert 'resuming gs://bucket/runs/mine at step 4' in err
  checkpoints = run / 'checkpoints'
  kept = {
    path.relative_to(checkpoints).parts[0] for path in checkpoints.rglob('*') if path.is_file()
  }
  assert kept == {'6'}
  assert sorted(byte_runs.losses(run)) == list(range(1, 7))
  evaluated = [json.loads(x) for x in (run / 'metrics' / 'eval.jsonl').read_text().splitlines()]
  assert [line['step'] for line in evaluated] == [0, 2, 4, 6]
  assert (run / 'predictions' / 'byte_sentiment-6.jsonl').exists()
  assert (run / 'config.gin').exists() and (run / 'vocabulary' / 'vocabulary.json').exists()

  status, out, err = main(
    'eval', f'--module={byte_runs.MODULE}', '--gin.MODEL_DIR=gs://bucket/runs/mine'
  )
  assert status == 0 and 'byte_sentiment/accuracy' in out, err
  assert (run / 'metrics' / 'infer.jsonl').exists()

  epath.Path('gs://bucket/runs/questions.txt').write_text('good\nbad\n')
  status, out, err = main(
    'infer', '--gin.MODEL_DIR=gs://bucket/runs/mine', '--gin.INPUT=gs://bucket/runs/questions.txt',
    f'--gin.OUTPUT={tmp_path / "answers.jsonl"}',
  )  # fmt: skip
  assert status == 0, err
  assert len((tmp_path / 'answers.jsonl').read_text().splitlines()) == 2

  # A run on this machine that starts from the one in the bucket, as one on disk would.
  status, _, err = main(
    *arguments, '--gin.TRAIN_STEPS=1', f'--gin.MODEL_DIR={tmp_path / "next"}',
    '--gin.INITIAL_CHECKPOINT_PATH=gs://bucket/runs/mine',
  )  # fmt: skip
  assert status == 0, err
  assert 'starting from the parameters of gs://bucket/runs/mine' in err


@pytest.fixture
def s3(monkeypatch):
  """File system of an S3 service in this process, with one bucket."""
  import s3fs
  from moto import server

  service = server.ThreadedMotoServer(port=0, verbose=False)
  service.start()
  try:
    host, port = service.get_host_and_port()
    monkeypatch.setenv('AWS_ENDPOINT_URL', f'http://{host}:{port}')
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
      monkeypatch.setenv(name, 'anyone')
    files = s3fs.S3FileSystem()
    files.mkdir('bucket')
    yield files
  finally:
    service.stop()


def test_weights_and_questions_are_read_from_s3(main, s3, shared_data, tmp_path):
  s3.put(str(shared_data / 'golden' / 'hf_tiny' / 't5_1_1'), 'bucket/weights', recursive=True)
  shape = {'vocab_size': 512, 'emb_dim': 64, 'num_heads': 4, 'head_dim': 16, 'mlp_dim': 128}
  status, _, err = main(
    'train', *byte_runs.FINETUNE, *(f'--gin.T5Config.{name}={n}' for name, n in shape.items()),
    '--gin.INITIAL_CHECKPOINT_PATH=s3://bucket/weights', '--gin.TRAIN_STEPS=1',
    '--gin.EVAL_PERIOD=None', f'--gin.MODEL_DIR={tmp_path / "run"}',
  )  # fmt: skip
  assert status == 0, err
  assert 'starting from the parameters of s3://bucket/weights' in err

  s3.pipe('bucket/questions.txt', b'good\nbad\n')
  status, out, err = main(
    'infer', f'--gin.MODEL_DIR={tmp_path / "run"}', '--gin.INPUT=s3://bucket/questions.txt'
  )
  assert status == 0, err
  assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('s3://bucket/run', 's3://bucket/run: Orbax keeps checkpoints in gs:// and in file systems'),
    ('hdfs://cluster/run', 'mount hdfs:// as one'),
    ('gs://', 'names no bucket'),
  ],
)
def test_a_place_that_keeps_no_run_is_refused(main, path, message):
  status, _, err = main(
    'train', *byte_runs.PRETRAIN, '--gin.TRAIN_STEPS=1', f'--gin.MODEL_DIR={path}'
  )
  assert status == 2 and err.count('\n') == 1
  assert message in err


def test_answers_are_not_written_to_a_bucket(main, tmp_path):
  status, _, err = main(
    'infer', f'--gin.MODEL_DIR={tmp_path}', '--gin.OUTPUT=gs://bucket/answers.jsonl'
  )
  assert status == 2 and err.count('\n') == 1
  assert 'OUTPUT=gs://bucket/answers.jsonl' in err
