"""The manifests of `k8s/`, and what Kubernetes, KubeRay and Ray would make of them."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rtl.cli import main
from rtl.serving import prometheus
from rtl.serving.traffic import TrafficStats
from tests.support.k8s_render import Manifest, render

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"

STEPS = {"ground", "cluster", "first", "pack", "search", "train", "predict", "serve", "ingress",
         "monitoring"}  # fmt: skip
DASHBOARD, GCS, CLIENT, SERVE, METRICS = 8265, 6379, 10001, 8000, 8080

OVERLAYS = {name: render(K8S / "overlays" / name) for name in ("cpu", "gpu")}
TOKENS = {"RAY_AUTH_TOKEN": "r" * 32, "RTL_TOKEN": "e" * 32, "REDIS_PASSWORD": "p" * 32}
KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "a/b+c="}


def secrets(**environment: str) -> str:
    """What `k8s/secrets.sh` prints."""
    return subprocess.run(
        ["bash", K8S / "secrets.sh"],
        env={"PATH": os.environ["PATH"], **environment},
        check=True, capture_output=True, text=True, timeout=20,
    ).stdout  # fmt: skip


SECRETS: list[Manifest] = list(yaml.safe_load_all(secrets(**TOKENS, **KEYS)))


def of(kind: str, overlay: str = "cpu") -> list[Manifest]:
    """The overlay's manifests of a kind."""
    found = [manifest for manifest in OVERLAYS[overlay] if manifest["kind"] == kind]
    assert found, kind
    return found


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def walk(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every mapping and list below a node, and where it is."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    yield way, node
    for key, child in children:
        if isinstance(child, dict | list):
            yield from walk(child, (*way, key))


def changed(whole: Any, way: tuple[Any, ...], node: Any) -> Any:
    """A copy with another node at a place."""
    if not way:
        return node
    copied = copy.deepcopy(whole)
    at = copied
    for part in way[:-1]:
        at = at[part]
    at[way[-1]] = node
    return copied


def clusters(overlay: str) -> Iterator[tuple[str, Any]]:
    """Every description of a Ray cluster, and whose it is."""
    for kind, key in (("RayCluster", None), ("RayJob", "rayClusterSpec"),
                      ("RayService", "rayClusterConfig")):  # fmt: skip
        for manifest in of(kind, overlay):
            yield title(manifest), manifest["spec"][key] if key else manifest["spec"]


def pods(overlay: str) -> Iterator[tuple[str, Any]]:
    """Every pod template, and where it is; a head's or worker's with the labels KubeRay adds."""
    for manifest in OVERLAYS[overlay]:
        for way, node in walk(manifest):
            if isinstance(node, dict) and "containers" in node.get("spec", {}):
                pod = copy.deepcopy(node)
                kind = {"headGroupSpec": "head", "workerGroupSpecs": "worker"}
                for part in way:
                    if part in kind:
                        pod["metadata"]["labels"]["ray.io/node-type"] = kind[part]
                yield f"{title(manifest)}:{'/'.join(map(str, way))}", pod


def serve_config(overlay: str) -> Any:
    return yaml.safe_load(of("RayService", overlay)[0]["spec"]["serveConfigV2"])


def admitted(labels: dict[str, str], port: int) -> list[Any]:
    """The peers that the policies let reach a pod's port, which at least one must close."""
    policies = [p["spec"] for p in of("NetworkPolicy") if "Ingress" in p["spec"]["policyTypes"]]
    chosen = [p for p in policies if fits(p["podSelector"], labels)]
    assert chosen, f"no policy closes {labels}"
    peers = []
    for rule in (rule for policy in chosen for rule in policy.get("ingress", [])):
        if port in [each["port"] for each in rule.get("ports", [{"port": port}])]:
            assert rule["from"], "an empty `from` is everybody"
            peers += rule["from"]
    return peers


def fits(selector: Any, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def commands(overlay: str, job: Manifest, folder: Path) -> list[list[str]]:
    """What a RayJob runs on the head, by KubeRay's shell, `ray job submit` and Ray's shell.

    Its programs only write down how they were called.
    """
    note = '#!/bin/sh\nprintf "%s\\0" "$(basename "$0")" "$@" >>"$CALLS"\necho >>"$CALLS"\n'
    for program in ("ray", "python", "rtl"):
        (folder / program).write_text(note)
        (folder / program).chmod(0o755)
    settings = next(m["data"] for m in of("ConfigMap", overlay) if "RTL_NAME" in m["data"])
    calls = folder / "calls"
    environment = {**settings, "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)}

    def run(command: str, shell: str) -> list[list[str]]:
        calls.write_bytes(b"")
        subprocess.run([shell, "-uec", command], env=environment, check=True, timeout=20)
        lines = calls.read_text("utf-8").splitlines()
        return [line.rstrip("\0").split("\0") for line in lines]

    (submitted,) = run(f"ray job submit --no-wait -- {job['spec']['entrypoint']} ;", "bash")
    return run(shlex.join(submitted[submitted.index("--") + 1 :]), "sh")


def parsed(call: list[str]) -> Any:
    """What rtl's own parser makes of a call of `rtl`, or of a script of `jobs/`."""
    if call[0] == "rtl":
        return main.parse(call[1:])
    script = ROOT / Path(call[1]).relative_to("/srv/rtl")
    (verb,) = re.findall(r'main\(\["(.+?)"', script.read_text("utf-8"))
    arguments = [argument.replace("/srv/rtl", str(ROOT)) for argument in call[2:]]
    return main.parse([verb, *arguments])


def exported_by_the_endpoint() -> set[str]:
    stats = TrafficStats()
    stats.add(
        {
            ("requests", "/v1/predict", "200"): 1, ("images", "ok", "1"): 1, ("batches",): 1,
            ("seconds", "/v1/predict", "sum"): 1, ("seconds", "/v1/predict", "+Inf"): 1,
        }
    )  # fmt: skip
    text = prometheus.render(stats, "1").decode()
    gauges = re.findall(r"^# TYPE (\w+) gauge$", text, re.MULTILINE)
    return {*gauges, *re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)}
