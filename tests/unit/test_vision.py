from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import rtl.training.workers.worker, rtl.cli, rtl.serving.replica
import torch
found = [name for name in ("torch._dynamo", "sympy", "triton") if name in sys.modules]
from torchvision.ops import roi_align
supported = roi_align.__globals__["is_compile_supported"]("cpu")
compiled = torch.compile(lambda x: x + 1, backend="eager")
print(json.dumps([found, supported, compiled(torch.ones(2)).tolist()]))
"""


def test_the_compiler_is_imported_where_it_is_used_and_not_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    before, supported, compiled = json.loads(done.stdout)
    assert before == []
    assert supported is True
    assert compiled == [2.0, 2.0]
