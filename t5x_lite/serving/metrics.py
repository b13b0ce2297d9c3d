"""What a server counts, in Prometheus' text format."""

from collections.abc import Callable

import prometheus_client

from t5x_lite.serving import batching

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
  """The metrics of one server.

  Attributes:
    requests: a counter of responses by endpoint and status.
    request_seconds: a histogram by endpoint, from a request's first byte to its response's last.
    ready: a gauge, 1 while requests are taken.
  """

  def __init__(self, batch_size: int, waiting: Callable[[], int]):
    """Begins at zero.

    Args:
      batch_size: the most texts of a batch.
      waiting: returns the texts in the queue.
    """
    self._registry = registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)

    def histogram(name, text, labels=(), buckets=_SECONDS):
      return prometheus_client.Histogram(
        f't5x_lite_{name}', text, labels, buckets=buckets, registry=registry
      )

    self.requests = prometheus_client.Counter(
      't5x_lite_requests', 'Responses.', ('endpoint', 'status'), registry=registry
    )
    self.request_seconds = histogram('request_seconds', 'Time to a response.', ('endpoint',))
    self._queue_seconds = histogram('queue_seconds', "Time until a request's first batch begins.")
    self._batch_seconds = histogram('batch_seconds', 'Time of a batch on the devices.')
    sizes = sorted({2**i for i in range(batch_size.bit_length())} | {batch_size})
    self._batch_texts = histogram('batch_texts', 'Texts of a batch.', buckets=sizes)
    gauge = prometheus_client.Gauge('t5x_lite_queue_texts', 'Texts that wait.', registry=registry)
    gauge.set_function(waiting)
    self.ready = prometheus_client.Gauge(
      't5x_lite_ready', '1 while requests are taken.', registry=registry
    )

  def observe(self, batch: batching.Batch):
    """Counts a batch."""
    self._batch_texts.observe(batch.size)
    self._batch_seconds.observe(batch.seconds)
    for seconds in batch.waits:
      self._queue_seconds.observe(seconds)

  def text(self) -> bytes:
    """Returns all of them."""
    return prometheus_client.generate_latest(self._registry)
