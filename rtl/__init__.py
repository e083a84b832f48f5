"""rtl: labelled images in object storage in, a served classifier out.

    import rtl

    rtl.pack("photos/", "data/")
    rtl.search("data/", name="dogs", storage="rtl-data", budget="30m")
    rtl.Registry("rtl-data").promote("dogs", 1)
    answer = rtl.load_model("dogs", storage="rtl-data").predict("photo.jpg")

Importing this package loads neither Ray nor PyTorch; the names below are imported when they are
first used. Every error that a call raises on purpose is a `rtl.errors.RtlError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rtl import errors as errors

if TYPE_CHECKING:
    from rtl.api.audits import audit
    from rtl.api.comparisons import compare
    from rtl.api.configuration import load_config
    from rtl.api.data import features, pack
    from rtl.api.endpoints import serve
    from rtl.api.fits import plan, report, search, train
    from rtl.api.labels import label_apply, label_curve, label_next, label_review
    from rtl.api.models import evaluate, export, load_model, predict
    from rtl.api.registries import Registry
    from rtl.config.tree import Config

__version__ = "0.1.0"

__all__ = [
    "pack",
    "features",
    "audit",
    "label_review",
    "label_next",
    "label_apply",
    "label_curve",
    "plan",
    "search",
    "train",
    "evaluate",
    "compare",
    "predict",
    "load_model",
    "serve",
    "export",
    "report",
    "Registry",
    "Config",
    "load_config",
]

_MODULES = {
    "pack": "rtl.api.data",
    "features": "rtl.api.data",
    "audit": "rtl.api.audits",
    "label_review": "rtl.api.labels",
    "label_next": "rtl.api.labels",
    "label_apply": "rtl.api.labels",
    "label_curve": "rtl.api.labels",
    "plan": "rtl.api.fits",
    "search": "rtl.api.fits",
    "train": "rtl.api.fits",
    "report": "rtl.api.fits",
    "evaluate": "rtl.api.models",
    "compare": "rtl.api.comparisons",
    "predict": "rtl.api.models",
    "load_model": "rtl.api.models",
    "export": "rtl.api.models",
    "serve": "rtl.api.endpoints",
    "Registry": "rtl.api.registries",
    "Config": "rtl.config.tree",
    "load_config": "rtl.api.configuration",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rtl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
