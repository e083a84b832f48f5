from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, time
from ray._private import services

ask, begun = services.get_node, time.monotonic()

def late(gcs_address, node_id):  # as on a machine that other work keeps busy
    if time.monotonic() - begun < 32:
        raise RuntimeError("The cluster does not know the node yet.")
    return ask(gcs_address, node_id)

services.get_node = late
import subprocess
other = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # a child that is none of Ray's
from rtl.runtime import session
session.connect(num_cpus=1)
import psutil, ray
answer = ray.get(ray.remote(lambda: 3).remote())
names = [process.name() for process in psutil.Process().children(recursive=True)]
ray.shutdown()
alive = other.poll() is None
other.communicate()
print(json.dumps([answer, names.count("raylet"), names.count("gcs_server"), alive]))
"""


@pytest.mark.slow
def test_a_node_that_is_late_is_started_again_and_the_first_one_is_gone() -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    printed = subprocess.check_output([sys.executable, "-c", SCRIPT], env=environment, text=True)
    assert json.loads(printed) == [3, 1, 1, True]
