"""TCP ports that stay free until somebody listens on them."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator

LOWEST, END = 20_000, 32_768
"""Systems give connections ports from 32768 on (RFC 6335 from 49152), of which Ray takes 52365."""


def free_ports() -> Iterator[int]:
    """Ports on which nobody listens, in random order, outside the range of outgoing connections."""
    for port in secrets.SystemRandom().sample(range(LOWEST, END), END - LOWEST):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("", port))
            yield port


def free_port() -> int:
    """A free port. Raises StopIteration where all are taken."""
    return next(free_ports())
