"""The HTTP endpoints. Whatever goes wrong is answered by {"error": "one line"}."""

import asyncio
import importlib.resources
import logging
import secrets
import time
from collections.abc import Callable

import fastapi
from fastapi import responses
from starlette import exceptions
from starlette import requests as starlette_requests

from t5x_lite import errors
from t5x_lite.decoding import options
from t5x_lite.serving import batching, bodies, metrics
from t5x_lite.serving import engine as serving_engine
from t5x_lite.serving import limits as serving_limits

LOADING, READY, DRAINING = 'loading', 'ready', 'draining'
_CLIENT_HAS_GONE = 499  # Nobody sees it but who reads the metrics; nginx calls it so.
# A body that is too long is read to its end if it is shorter than so many that are not.
_DISCARDED_BODIES = 8
_PAGE_HEADERS = {
  'Content-Security-Policy': "default-src 'none'; connect-src 'self'; img-src data:; "
  "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
}
_log = logging.getLogger(__name__)


class Service:
  """What the endpoints, the thread that owns the devices and the signals share.

  Attributes:
    limits: see there.
    metrics: see there.
    batcher: the queue.
    engine: the model; None while it is loaded.
    state: LOADING, READY or DRAINING.
    in_flight: requests that were taken and not answered.
  """

  def __init__(self, batch_size: int, limits: serving_limits.Limits):
    self.limits = limits
    self.batcher = batching.Batcher(
      batch_size=batch_size,
      batch_wait=limits.batch_wait,
      max_queue=limits.max_queue,
      observe=lambda batch: self.metrics.observe(batch),
    )
    self.metrics = metrics.Metrics(batch_size, self.batcher.waiting)
    self.engine = None
    self.state = LOADING
    self.in_flight = 0

  def enter(self, state: str):
    """Changes the state, which never goes back."""
    if self.state != DRAINING:
      self.state = state
      self.metrics.ready.set(state == READY)

  async def answer(
    self,
    request: fastapi.Request,
    question: Callable[[serving_engine.Engine, bytes], tuple],
  ) -> list:
    """Answers a request.

    Args:
      request: the request.
      question: makes a key and items of its body.
    """
    if self.state != READY:
      doing = 'stopping' if self.state == DRAINING else 'still loading its model'
      raise exceptions.HTTPException(503, f'the server is {doing}')
    self.in_flight += 1
    try:
      async with asyncio.timeout(self.limits.request_timeout):
        content = await _read(request, self.limits.max_body)
        # Long texts take long to tokenize.
        key, items = await asyncio.to_thread(question, self.engine, content)
        return await _unless_gone(request, self.batcher.submit(key, items))
    except starlette_requests.ClientDisconnect:
      raise _gone() from None
    except TimeoutError:
      raise exceptions.HTTPException(
        504, f'not answered within {self.limits.request_timeout:g} s'
      ) from None
    finally:
      self.in_flight -= 1


async def _read(request, max_body):
  """The body of a request, which FastAPI would read whole before it says no."""
  kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
  if kind != 'application/json':  # Which other sites cannot make a browser send.
    raise exceptions.HTTPException(415, 'the Content-Type must be application/json')
  content = bytearray()
  announced = int(request.headers.get('content-length', '0'))
  chunks = request.stream()
  if max_body < announced <= _DISCARDED_BODIES * max_body:
    async for _ in chunks:  # Most clients look for no answer before they have sent all.
      pass
  while announced <= max_body and len(content) <= max_body:
    chunk = await anext(chunks, None)
    if chunk is None:
      return bytes(content)
    content += chunk
  raise exceptions.HTTPException(413, f'the request is longer than {max_body} bytes')


async def _unless_gone(request, future):
  """The result of a future, which is cancelled if the client does not wait for it."""

  async def leave():
    while (await request.receive())['type'] != 'http.disconnect':
      pass

  answered, left = asyncio.wrap_future(future), asyncio.create_task(leave())
  try:
    await asyncio.wait((answered, left), return_when=asyncio.FIRST_COMPLETED)
    if not answered.done():
      raise _gone()
    return answered.result()
  finally:
    answered.cancel()
    left.cancel()


def _gone():
  return exceptions.HTTPException(_CLIENT_HAS_GONE, 'the client has gone')


class _Observed:
  """ASGI middleware that counts responses, and answers in place of what fails."""

  def __init__(self, app, service):
    self._app = app
    self._service = service

  async def __call__(self, scope, receive, send):
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    start, status = time.monotonic(), None

    async def note(message):
      nonlocal status
      status = message.get('status', status)
      await send(message)

    try:
      await self._app(scope, receive, note)
    except Exception:
      name = secrets.token_hex(4)
      _log.exception('error %s at %s', name, scope['path'])
      if status is None:
        error = _error(500, f"internal error {name}, which the server's log tells more of")
        await error(scope, receive, note)
    # Of paths that are not there any number could be asked for.
    endpoint = scope['route'].path if 'route' in scope else 'other'
    seen = self._service.metrics
    seen.requests.labels(endpoint, status).inc()
    seen.request_seconds.labels(endpoint).observe(time.monotonic() - start)


def _error(status, text, headers=None):
  return responses.JSONResponse({'error': ' '.join(text.split())}, status, headers)


def create(service: Service, decoding: options.DecodingConfig) -> fastapi.FastAPI:
  """Returns the application.

  Args:
    service: what answers.
    decoding: the options of requests, where they say nothing else.
  """
  # The pages that FastAPI makes of /openapi.json load scripts from elsewhere.
  app = fastapi.FastAPI(title='t5x-lite serve', docs_url=None, redoc_url=None)
  app.router.redirect_slashes = False
  app.add_middleware(_Observed, service=service)
  page = importlib.resources.files(__package__).joinpath('page.html').read_text(encoding='utf-8')
  prediction = bodies.predict(decoding)

  @app.exception_handler(exceptions.HTTPException)
  async def refuse(request, error):
    text = error.detail
    if error.status_code in (404, 405):
      text = f'{text}: {request.method} {request.url.path}'
    return _error(error.status_code, text, error.headers)

  @app.exception_handler(errors.UserError)
  async def mend(request, error):
    return _error(422, str(error))

  @app.exception_handler(batching.QueueFull)
  async def wait(request, error):
    text = f'the queue has no room: {service.batcher.waiting()} of {service.limits.max_queue} texts'
    return _error(429, text, {'Retry-After': '1'})

  @app.exception_handler(batching.Closed)
  async def stop(request, error):
    return _error(503, 'the server is stopping')

  @app.post('/predict', openapi_extra=_body_of(prediction))
  async def predict(request: fastapi.Request):
    def questions(engine, content):
      body = bodies.parse(prediction, content)
      given = body.model_dump(exclude_unset=True, exclude={'inputs'})
      return engine.questions(body.inputs, given)

    return responses.JSONResponse({'answers': await service.answer(request, questions)})

  @app.post('/score', openapi_extra=_body_of(bodies.Score))
  async def score(request: fastapi.Request):
    def pairs(engine, content):
      body = bodies.parse(bodies.Score, content)
      return engine.pairs(body.inputs, body.targets)

    answers = await service.answer(request, pairs)
    return responses.JSONResponse({'scores': [each['score'] for each in answers]})

  @app.api_route('/health', methods=['GET', 'HEAD'])
  async def health():
    status = 200 if service.state == READY else 503
    return responses.JSONResponse({'status': service.state}, status)

  @app.api_route('/health/live', methods=['GET', 'HEAD'])
  async def live():
    return responses.JSONResponse({'status': 'alive'})

  @app.get('/metrics')
  async def tell():
    return responses.Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

  @app.get('/', include_in_schema=False)
  async def show():
    return responses.HTMLResponse(page, headers=_PAGE_HEADERS)

  return app


def _body_of(kind):
  schema = kind.model_json_schema()
  return {'requestBody': {'required': True, 'content': {'application/json': {'schema': schema}}}}
