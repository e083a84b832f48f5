"""Reads a JSON body, and explains why one cannot be read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pydantic
from pydantic import Field

from rtl.serving.http.errors import bad_request
from rtl.serving.http.request import options

MAX_IMAGES = 64
"""Most images in one body, in any form."""


class _Strict(pydantic.BaseModel):
    """A JSON object without unknown keys."""

    model_config = pydantic.ConfigDict(extra="forbid")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):  # reports one; pydantic would list a million
            for name in value:
                if name not in cls.model_fields:
                    known = options.unknown(name, cls.model_fields)
                    raise ValueError(f"the key {name[:40]!r} {known}")
        return value


class JsonImage(_Strict):
    """An image in a JSON body."""

    name: Annotated[str | None, Field(description="The file's name, returned as `file`.")] = None
    data: Annotated[
        str,
        Field(
            description="The file in base64: either alphabet, with or without padding and line "
            "breaks, or as a data: URI."
        ),
    ]


class JsonBody(_Strict):
    """A JSON body; its `top_k` and `explain` go before those of the query."""

    images: Annotated[list[JsonImage], Field(min_length=1, max_length=MAX_IMAGES)]
    top_k: Annotated[int, Field(ge=1)] | None = None
    explain: bool | None = None


def read(body: bytes) -> JsonBody:
    """Reads and validates a body. Raises RequestError 400."""
    try:
        # Not strict: with a shell's variable, the text has base64's line breaks unescaped.
        return JsonBody.model_validate(json.loads(body, strict=False), strict=True)
    except (ValueError, RecursionError) as error:
        reason = _why(error) if isinstance(error, pydantic.ValidationError) else str(error)
        raise bad_request(
            f"The JSON body cannot be read ({reason[:200]}). Send "
            f'{{"images": [{{"data": BASE64}}, ...]}} with up to {MAX_IMAGES} images.'
        ) from None


def _why(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "it"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message if where == "it" else f"{where}: {message}"
    if first["type"] == "model_type":
        message = "it must be an object"
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where} is {_abbreviate(first['input'])}: {message[0].lower()}{message[1:]}"


def _abbreviate(value: Any) -> str:
    """A value in at most about 40 characters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, str):
        return repr(value[:40])
    return json.dumps(value)[:40]
