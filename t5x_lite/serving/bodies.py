"""What may stand in the JSON of a request, and what is said of that which may not."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic

from t5x_lite import errors
from t5x_lite.decoding import options

_Int32 = Annotated[int, pydantic.Field(ge=-(2**31), lt=2**31)]
_Texts = Annotated[
  list[str],
  pydantic.BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
  pydantic.WithJsonSchema(
    {'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}]}
  ),
]
# Where `DecodingConfig` does not say all that it takes, or takes numbers that no array holds.
_TYPES = {
  int: _Int32,
  int | None: _Int32 | None,
  Sequence[Any]: Sequence[str | _Int32 | Sequence[_Int32]],
  Mapping[int, Any]: Mapping[_Int32, str | _Int32],
}
_STRICT = pydantic.ConfigDict(extra='forbid', strict=True, allow_inf_nan=False)
_SAID = {
  'missing': 'is missing',
  'extra_forbidden': 'is no field of this request',
  'model_type': 'is no JSON object',
}


class Score(pydantic.BaseModel):
  """Targets to score, each with its input."""

  model_config = _STRICT

  inputs: _Texts
  targets: _Texts


def predict(defaults: options.DecodingConfig) -> type[pydantic.BaseModel]:
  """Returns the class of texts to answer, with the fields of `DecodingConfig` that JSON can say.

  Args:
    defaults: the server's own.
  """
  fields = {
    field.name: (_TYPES.get(field.type, field.type), getattr(defaults, field.name))
    for field in dataclasses.fields(defaults)
    if field.name != 'transforms'
  }
  return pydantic.create_model('Predict', __config__=_STRICT, inputs=(_Texts, ...), **fields)


def parse(kind: type[pydantic.BaseModel], content: bytes) -> pydantic.BaseModel:
  """Returns a request.

  Raises:
    UserError: it is no JSON, or not of that kind.
  """
  try:
    return kind.model_validate_json(content)
  except pydantic.ValidationError as error:
    # Of a choice of types the first error says enough.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
  name = next(iter(first['loc']), 'the request')
  said = _SAID.get(first['type'], f'is wrong: {first["msg"]}')
  near = ''
  if first['type'] == 'extra_forbidden':
    near = errors.did_you_mean(name, kind.model_fields)
  raise errors.UserError(f'{name} {said}{near}')
