"""A JSON body, and why one cannot be read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pydantic
from pydantic import Field

from rtl.serving.http.errors import bad_request
from rtl.serving.http.request import options

MAX_IMAGES = 64
"""Most images in one body, whichever form it has."""


class _Known(pydantic.BaseModel):
    """An object whose keys are all known."""

    model_config = pydantic.ConfigDict(extra="forbid")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):  # the first one alone: pydantic would list a million
            for name in value:
                if name not in cls.model_fields:
                    about = options.unknown(name, cls.model_fields)
                    raise ValueError(f"the key {name[:40]!r} {about}")
        return value


class JsonImage(_Known):
    """An image in a JSON body."""

    name: Annotated[str | None, Field(description="Given back as `file`.")] = None
    data: Annotated[
        str,
        Field(
            description="The file in base64: either alphabet, with or without padding and line "
            "breaks, or as a data: URI."
        ),
    ]


class JsonBody(_Known):
    """A JSON body; the query's `top_k` and `explain` count where it has none."""

    images: Annotated[list[JsonImage], Field(min_length=1, max_length=MAX_IMAGES)]
    top_k: Annotated[int, Field(ge=1)] | None = None
    explain: bool | None = None


def read(body: bytes) -> JsonBody:
    """The content. Raises RequestError 400."""
    try:
        # Not strict: a shell puts the line breaks of base64 into a text as they are.
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
    return f"{where} is {_shown(first['input'])}: {message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    """A value in a few characters, however large it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, str):
        return repr(value[:40])
    return json.dumps(value)[:40]
