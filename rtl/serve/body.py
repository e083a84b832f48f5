"""A request's body: read within its limits, and the images in it, in each of the three forms."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

RETRY_AFTER_S = "1"
MAX_IMAGES = 64
"""That one body may hold."""


class RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, type_: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Bodies:
    """How many bytes of bodies are held at once, those still to be answered included."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """To be told of each part of a body. That raises RequestError 503 for more than may be."""
        own = 0

        def add(size: int) -> None:
            nonlocal own
            if self._held + size > self._limit:
                raise RequestError(
                    503,
                    "overloaded",
                    f"{self._held / 1e6:.0f} MB of other requests wait already; try again in a "
                    "second.",
                    Retry_After=RETRY_AFTER_S,
                )
            self._held += size
            own += size

        try:
            yield add
        finally:
            self._held -= own


@dataclass(frozen=True)
class Asked:
    """What a request to predict asks for."""

    names: list[str | None]
    """File names, where they were given."""
    images: list[bytes]
    """Encoded, as many as `names`, at least one."""
    top_k: int | None
    """None where the request does not say."""
    explain: bool
    alone: bool
    """Whether the body is one image, whose error is the request's."""


class JsonImage(pydantic.BaseModel):
    """An image in a JSON body."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str | None = None
    """Given back as `file`."""
    data: str
    """Base64."""


class JsonBody(pydantic.BaseModel):
    """A JSON body; the query's `top_k` and `explain` count where it has none."""

    model_config = pydantic.ConfigDict(extra="forbid")

    images: Annotated[list[JsonImage], Field(min_length=1, max_length=MAX_IMAGES)]
    top_k: Annotated[int, Field(ge=1)] | None = None
    explain: bool | None = None


async def read(request: Request, limit: int, deadline: float, add: Callable[[int], None]) -> bytes:
    """The body, refused as soon as it is known to be over `limit` bytes; `add` hears of each part.

    Raises RequestError 413, 408 at the deadline, a time of the event loop, and what `add` raises.
    """
    declared = request.headers.get("content-length", "")
    body = bytearray()
    try:
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        async with asyncio.timeout_at(deadline):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit)
                add(len(chunk))
                body += chunk
    except TimeoutError:
        raise RequestError(
            408,
            "slow_request",
            f"The body did not arrive in time, {len(body)} bytes did; send it again, faster.",
            Connection="close",
        ) from None
    except ClientDisconnect:
        raise RequestError(400, "disconnected", "The client left before its body ended.") from None
    return bytes(body)


async def parse(request: Request, body: bytes) -> Asked:
    """What is asked for. Raises RequestError 400 for a body or query that cannot be read.

    What an image is, its bytes say, never a header: only multipart and JSON are told by it.
    """
    top_k, explain = _top_k(request), _explain(request)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        names, images = await _multipart(request, body)
        return Asked(_sayable(names), images, top_k, explain, len(images) == 1)
    if kind == "application/json":
        content = _json(body)
        return Asked(
            _sayable([image.name for image in content.images]),
            [_decode(image, number) for number, image in enumerate(content.images)],
            content.top_k or top_k,
            explain if content.explain is None else content.explain,
            len(content.images) == 1,
        )
    return Asked([None], [body], top_k, explain, alone=True)


def _sayable(names: list[str | None]) -> list[str | None]:
    """With half a surrogate pair, which JSON may escape and UTF-8 cannot hold, as `?`."""
    return [name and name.encode("utf-8", "replace").decode() for name in names]


def _top_k(request: Request) -> int | None:
    text = request.query_params.get("top_k")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 9 and int(text) > 0):
        raise RequestError(
            400, "bad_request", f"top_k is {text[:40]!r}; it must be a whole number from 1 on."
        )
    return int(text)


def _explain(request: Request) -> bool:
    text = request.query_params.get("explain", "false")
    if text not in ("true", "false"):
        raise RequestError(400, "bad_request", f"explain is {text[:40]!r}; say true or false.")
    return text == "true"


class _InMemoryParser(MultiPartParser):
    spool_max_size = sys.maxsize  # the body is in memory and bounded: no copy goes to the disk


async def _multipart(request: Request, body: bytes) -> tuple[list[str | None], list[bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemoryParser(request.headers, stream(), max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", str(error)).rstrip(".")
        raise RequestError(
            400,
            "bad_request",
            f"The multipart body cannot be read: {reason}. Send up to {MAX_IMAGES} images as file "
            "parts, or one as the body itself.",
        ) from None
    try:
        parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        names, images = [part.filename for part in parts], [await part.read() for part in parts]
    finally:
        await form.close()
    if not parts:
        raise RequestError(
            400,
            "bad_request",
            "The multipart body has no file part; give each image a file name (curl -F "
            "image=@photo.jpg).",
        )
    return names, images


def _json(body: bytes) -> JsonBody:
    try:
        return JsonBody.model_validate(json.loads(body), strict=True)
    except (ValueError, RecursionError) as error:
        reason: Any = error
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise RequestError(
            400,
            "bad_request",
            f"The JSON body cannot be read ({str(reason)[:200]}). Send "
            '{"images": [{"data": BASE64}, ...]} with up to '
            f"{MAX_IMAGES} images.",
        ) from None


def _decode(image: JsonImage, number: int) -> bytes:
    try:
        return base64.b64decode(image.data, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(
            400, "bad_request", f"images.{number}.data is not base64; encode the file's bytes."
        ) from None


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        "body_too_large",
        f"The body is over serve.max_body_mb = {limit / 1e6:g} MB; scale the image down or send "
        "fewer at once.",
    )
