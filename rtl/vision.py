"""torchvision, imported without PyTorch's compiler; rtl takes torchvision's names from here alone.

Two of torchvision's modules import the compiler, `torch._dynamo`: `tv_tensors`, to keep it away
from a function, and `ops.roi_align`, which rtl never calls. With it come 850 modules, 140 MB and
much of the time in which a process of rtl starts (docs/decisions/0028-torchvision.md). So an empty
module stands in its place while torchvision is imported. Whoever needs the compiler later imports
it as ever.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch  # noqa: F401 -- whole, before something stands in its compiler's place

_COMPILER = "torch._dynamo"
_UTILS = f"{_COMPILER}.utils"


def _undecorated(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """Stands for `torch._dynamo.disable`: rtl compiles nothing of torchvision's."""
    return function


def _is_compile_supported(device_type: str) -> Any:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Puts an empty module in the compiler's place, unless that was imported already."""
    if _COMPILER in sys.modules:
        yield
        return
    compiler, utils = ModuleType(_COMPILER), ModuleType(_UTILS)
    compiler.__dict__.update(__path__=[], disable=_undecorated, utils=utils)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    sys.modules.update({_COMPILER: compiler, _UTILS: utils})
    try:
        yield
    finally:
        for name in (_COMPILER, _UTILS):
            del sys.modules[name]


with _without_compiler():
    from torchvision.io import ImageReadMode, decode_image, encode_jpeg
    from torchvision.models import Inception_V3_Weights
    from torchvision.models.inception import (
        BasicConv2d,
        Inception3,
        InceptionA,
        InceptionB,
        InceptionC,
        InceptionD,
        InceptionE,
    )
    from torchvision.transforms import v2

__all__ = [
    "BasicConv2d", "ImageReadMode", "Inception3", "InceptionA", "InceptionB", "InceptionC",
    "InceptionD", "InceptionE", "Inception_V3_Weights", "decode_image", "encode_jpeg", "v2",
]  # fmt: skip
