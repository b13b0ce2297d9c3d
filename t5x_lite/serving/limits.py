"""What a server takes before it says no, and how long it waits."""

import dataclasses

from t5x_lite import errors


@dataclasses.dataclass(frozen=True)
class Limits:
  """The bounds of a server.

  Attributes:
    batch_wait: seconds that a text waits for others to share its batch.
    max_queue: texts that may wait for their batch.
    max_texts: texts of one request.
    max_body: bytes of one request.
    max_beams: beams, or samples, to each text.
    max_programs: combinations of decoding options whose compiled programs are kept, those last used; 1 lets requests
      have no options but the server's.
    request_timeout: seconds from the start of a request to its answer.
    drain_timeout: seconds to answer what was taken before a signal to stop.
  """

  batch_wait: float = 0.005
  max_queue: int = 256
  max_texts: int = 64
  max_body: int = 2**20
  max_beams: int = 16
  max_programs: int = 16
  request_timeout: float = 60.0
  drain_timeout: float = 30.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value, may_be_0 = getattr(self, field.name), field.name in ('batch_wait', 'drain_timeout')
      if value < 0 or (value == 0 and not may_be_0):
        raise errors.UserError(
          f'{field.name.upper()}={value} must be {"at least" if may_be_0 else "above"} 0'
        )
    if self.max_texts > self.max_queue:
      raise errors.UserError(
        f'MAX_TEXTS={self.max_texts} of one request would never fit MAX_QUEUE={self.max_queue}: '
        'raise that, or lower this'
      )
