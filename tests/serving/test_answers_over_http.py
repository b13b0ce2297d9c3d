"""What a server answers, and what it says of requests that it cannot answer."""

import concurrent.futures
import json
import socket

import pytest
import random_runs

import t5x_lite
from t5x_lite import cli

pytestmark = pytest.mark.slow

LINES = random_runs.LINES[:5]


def infer(run, tmp_path, capfd, *arguments):
  """What `t5x-lite infer` prints for LINES."""
  text = tmp_path / 'lines.txt'
  text.write_text('\n'.join([*LINES, '']))
  arguments = [f'--gin.MODEL_DIR={run}', f'--gin.INPUT={text}', '--gin.BATCH_SIZE=8', *arguments]
  assert cli.main(['infer', *arguments]) == 0
  return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def same(answers, others):
  """Whether all is the same, but for the last digits of scores."""
  if isinstance(answers, dict):
    return answers.keys() == others.keys() and all(same(answers[k], others[k]) for k in answers)
  if isinstance(answers, list):
    return len(answers) == len(others) and all(map(same, answers, others))
  return answers == (pytest.approx(others, rel=1e-4) if isinstance(others, float) else others)


@pytest.mark.parametrize(
  'given, arguments',
  [
    ({}, []),
    ({'num_beams': 3, 'num_answers': 2}, ['--gin.NUM_BEAMS=3', '--gin.NUM_ANSWERS=2']),
    ({'temperature': 1.0, 'seed': 5}, ['--gin.TEMPERATURE=1.0', '--gin.DECODING_SEED=5']),
    ({'allowed': ['red', 'bird'], 'prefix': 'a'}, ["--gin.ALLOWED=['red', 'bird']", '--gin.PREFIX=a']),
    ({'forced': {'0': 'red'}, 'banned': ['fish', 1]}, ["--gin.FORCED={0: 'red'}", "--gin.BANNED=['fish', 1]"]),
  ],
)  # fmt: skip
def test_answers_are_those_of_infer(server, random_run, tmp_path, capfd, given, arguments):
  expected = infer(random_run, tmp_path, capfd, *arguments)
  answer = server.predict(LINES, **given)
  assert answer.status == 200, answer
  assert same(answer.body['answers'], expected)
  [alone] = server.predict(LINES[0], **given).body['answers']
  assert same(alone, expected[0])


def test_scores_are_those_of_the_model(server, random_run):
  model = t5x_lite.load(random_run, batch_size=8)
  targets = ['fish', 'red', 'a bird', 'fish', 'bird']
  answer = server.post('/score', {'inputs': LINES, 'targets': targets})
  assert answer.status == 200
  assert answer.body['scores'] == pytest.approx(model.score(LINES, targets).tolist(), rel=1e-4)


def test_samples_differ_without_a_seed_and_repeat_with_one(server):
  def texts(**given):
    answers = server.predict(LINES, temperature=2.0, num_answers=3, **given).body['answers']
    return [each['prediction'] for answer in answers for each in answer['answers']]

  assert texts() != texts()
  assert texts(seed=1) == texts(seed=1)
  assert texts(seed=1) != texts(seed=2)


def test_a_text_alone_and_texts_of_many_at_once_get_the_same_answers(server):
  expected = [server.predict(line).body['answers'][0] for line in LINES]
  with concurrent.futures.ThreadPoolExecutor(20) as pool:
    answers = list(pool.map(lambda i: server.predict(LINES[i % 5]), range(40)))
  assert [answer.status for answer in answers] == [200] * 40
  for i, answer in enumerate(answers):
    assert same(answer.body['answers'], [expected[i % 5]])


def test_more_texts_than_a_batch_are_answered_in_order(server):
  answers = server.predict(LINES * 10).body['answers']
  assert [answer['inputs'] for answer in answers] == LINES * 10
  assert same(answers[40:45], answers[:5])


TOO_LONG = 'fish ' * 50
BAD = {
  'no JSON': (b'{', 'the request is wrong: Invalid JSON'),
  'nothing': (b'', 'the request is wrong: Invalid JSON'),
  'not UTF-8': (b'{"inputs": "\xff"}', 'the request is wrong: Invalid JSON'),
  'half a character': (b'{"inputs": "\\ud800"}', 'the request is wrong: Invalid JSON'),
  'too deep': (b'[' * 100_000, 'recursion limit'),
  'no object': ([1], 'the request is no JSON object'),
  'no inputs': ({}, 'inputs is missing'),
  'inputs of another type': ({'inputs': 5}, 'inputs is wrong: Input should be a valid array'),
  'a text of another type': ({'inputs': ['a', None]}, 'inputs is wrong: Input should be a valid string'),
  'no texts': ({'inputs': []}, 'inputs has 0 texts, but may have 1 to 64'),
  'too many texts': ({'inputs': ['a'] * 65}, 'inputs has 65 texts, but may have 1 to 64'),
  'an empty text': ({'inputs': ['a', ' \n']}, 'text 2 is empty'),
  'a long text': ({'inputs': TOO_LONG}, 'text 1 has inputs of 51 tokens, but 20 are the most'),
  'an unknown field': ({'inputs': 'a', 'num_beam': 2}, 'num_beam is no field of this request; did you mean num_beams'),
  'code': ({'inputs': 'a', 'transforms': []}, 'transforms is no field of this request'),
  'an option of another type': ({'inputs': 'a', 'num_beams': '2'}, 'num_beams is wrong'),
  'no whole number': ({'inputs': 'a', 'num_beams': 2.5}, 'num_beams is wrong'),
  'no number at all': (b'{"inputs": "a", "temperature": NaN}', 'temperature is wrong'),
  'a number too large': ({'inputs': 'a', 'top_k': 2**40, 'temperature': 1}, 'top_k is wrong'),
  'a bad option': ({'inputs': 'a', 'num_beams': 0}, 'num_beams=0 must be at least 1'),
  'options that exclude each other': ({'inputs': 'a', 'num_beams': 2, 'temperature': 1}, 'exclude each other'),
  'an option without effect': ({'inputs': 'a', 'top_k': 3}, 'top_k=3 does nothing without a temperature'),
  'too many beams': ({'inputs': 'a', 'num_beams': 17}, 'num_beams and num_answers=17 may be at most 16'),
  'too many samples': ({'inputs': 'a', 'temperature': 1, 'num_answers': 17}, 'may be at most 16'),
  'too many tokens': ({'inputs': 'a', 'max_new_tokens': 5}, 'max_new_tokens=5 may be at most 4'),
  'a long prefix': ({'inputs': 'a', 'prefix': TOO_LONG}, 'prefix is 50 tokens, but targets have at most 4'),
  'many entries': ({'inputs': 'a', 'banned': ['a'] * 65}, 'banned has 65 entries, but may have 64'),
  'ids that are none': ({'inputs': 'a', 'banned': [10_000]}, 'banned=10000 is no text and no token ids'),
  'half an id': ({'inputs': 'a', 'banned': [1.5]}, 'banned is wrong'),
  'a negative seed': ({'inputs': 'a', 'temperature': 1, 'seed': -1}, 'seed=-1 may be from 0'),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_bad_requests_are_told_what_is_wrong_in_one_line(server, name):
  body, told = BAD[name]
  status, _, answer = server.post('/predict', body)
  assert status == 422 and list(answer) == ['error'], answer
  assert told in answer['error']
  assert '\n' not in answer['error'] and 'Traceback' not in answer['error']


@pytest.mark.parametrize(
  'body, told',
  [
    ({'inputs': 'a'}, 'targets is missing'),
    ({'inputs': ['a', 'b'], 'targets': 'a'}, '2 inputs, but 1 targets: give one to each'),
    ({'inputs': ['a', ''], 'targets': ['a', 'b']}, 'text 2 has empty inputs'),
    ({'inputs': 'a', 'targets': TOO_LONG}, 'text 1 has targets of 51 tokens, but 4 are the most'),
    ({'inputs': 'a', 'targets': 'a', 'num_beams': 2}, 'num_beams is no field'),
  ],
)
def test_bad_targets_are_told(server, body, told):
  answer = server.post('/score', body)
  assert answer.status == 422 and told in answer.body['error']


def test_other_refusals_have_their_own_status(server):
  assert server.post('/predict', {'inputs': 'a' * 2**20}).status == 413
  assert server.post('/predict', {'inputs': 'a'}, kind='text/plain').status == 415
  missing = server.get('/predictions')
  assert missing.status == 404 and missing.body == {'error': 'Not Found: GET /predictions'}
  wrong = server.get('/predict')
  assert wrong.status == 405 and wrong.headers['Allow'] == 'POST'
  assert server.post('/health', {}).body == {'error': 'Method Not Allowed: POST /health'}


def test_a_body_without_a_length_is_not_read_to_its_end(server):
  chunk = b'%x\r\n%s\r\n' % (2**16, b' ' * 2**16)
  # One more than 1 MiB; the end never comes.
  answer = server.begin(b'Transfer-Encoding: chunked\r\n', 17 * chunk)
  assert answer.startswith(b'HTTP/1.1 413 ')


def test_a_body_of_any_length_is_not_waited_for(server):
  answer = server.begin(b'Content-Length: 1000000000\r\n')
  assert answer.startswith(b'HTTP/1.1 413 ')


def test_what_is_no_http_is_refused(server):
  with socket.create_connection(('127.0.0.1', server.port), timeout=60) as connection:
    connection.sendall(b'\x16\x03\x01 hello\r\n\r\n')
    assert connection.recv(2**16).startswith(b'HTTP/1.1 400 ')
  assert server.get('/health').status == 200


def test_health_metrics_and_schema_are_there(server):
  assert server.get('/health').body == {'status': 'ready'}
  assert server.get('/health/live').status == 200
  before = server.metric('t5x_lite_requests_total{endpoint="/predict",status="200"}')
  server.predict('a red fish')
  after = server.metric('t5x_lite_requests_total{endpoint="/predict",status="200"}')
  assert after == before + 1
  assert server.metric('t5x_lite_ready') == 1 and server.metric('t5x_lite_queue_texts') == 0
  assert server.metric('t5x_lite_batch_texts_sum') >= server.metric('t5x_lite_batch_texts_count')
  assert server.get('/metrics').headers.get_content_type() == 'text/plain'
  paths = server.get('/openapi.json').body['paths']
  schema = paths['/predict']['post']['requestBody']['content']['application/json']['schema']
  assert {'inputs', 'num_beams', 'seed'} < schema['properties'].keys()
  assert 'transforms' not in schema['properties']


def test_it_listens_on_no_other_address(server):
  with pytest.raises(OSError):
    socket.create_connection(('127.0.0.2', server.port), timeout=2)
