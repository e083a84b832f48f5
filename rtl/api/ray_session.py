"""The connection to Ray that a call or a command needs."""

from __future__ import annotations

import contextlib

from rtl.display import console
from rtl.runtime import session


def connect(*, progress: bool) -> None:
    """Joins the cluster that `RAY_ADDRESS` names, else starts Ray here; once a process."""
    with console.busy("Starting Ray") if progress else contextlib.nullcontext():
        session.connect()
