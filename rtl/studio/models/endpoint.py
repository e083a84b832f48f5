"""Asks an endpoint which model it serves and how recent photos compare: drift, canary, accuracy."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import requests

from rtl.errors import ConfigError, NotFoundError, reason
from rtl.studio.runs.plain import without_nan

TIMEOUT_S = 4.0
"""Seconds to wait for an answer."""

MOST_BYTES = 4_000_000
"""Size of an answer, at most."""


def ask(address: str, token: str = "") -> dict[str, Any]:
    """The endpoint's `/v1/model` and `/v1/traffic`, as plain JSON values.

    Raises ConfigError for what is no address or a wrong token, NotFoundError where no endpoint
    answers.
    """
    place = check(address)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor a .netrc
        session.headers.update(headers)
        return {
            "address": place,
            "model": _get(session, f"{place}/v1/model"),
            "traffic": _get(session, f"{place}/v1/traffic"),
        }


def check(address: str) -> str:
    """An endpoint's address without a slash at its end. Raises ConfigError."""
    text = address.strip()
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
        sound = sound and (parts.port is None or parts.port > 0) and "@" not in parts.netloc
    except ValueError:
        sound = False
    if not sound:
        raise ConfigError(f"{address!r} is no address; give one such as http://127.0.0.1:8000.")
    return text.rstrip("/")


def _get(session: requests.Session, url: str) -> Any:
    try:
        with session.get(url, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as answer:
            if answer.status_code == 401:
                raise ConfigError(f"{url} needs another token: that of the endpoint's RTL_TOKEN.")
            if answer.status_code != 200:
                raise NotFoundError(f"{url} answered {answer.status_code}; it is no rtl endpoint.")
            body = answer.raw.read(MOST_BYTES + 1, decode_content=True)
            if len(body) > MOST_BYTES:
                raise NotFoundError(f"{url} answered more than {MOST_BYTES / 1e6:g} MB.")
            found = json.loads(body)
    except ValueError:
        raise NotFoundError(f"{url} answered no JSON; it is no rtl endpoint.") from None
    except requests.RequestException as error:
        place = url.removesuffix("/v1/model").removesuffix("/v1/traffic")
        raise NotFoundError(f"No endpoint answers at {place} ({_short(error)}).") from None
    if not isinstance(found, dict):
        raise NotFoundError(f"{url} answered another JSON; it is no rtl endpoint.")
    return without_nan(found)


def _short(error: Exception) -> str:
    """The kind of a fault of the connection, in words."""
    if isinstance(error, requests.Timeout):
        return f"nothing within {TIMEOUT_S:g} s"
    if isinstance(error, requests.ConnectionError):
        return "the connection was refused or broke"
    return reason(error)
