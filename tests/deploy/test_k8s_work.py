"""What runs by `k8s/`: endpoint, jobs, monitors, and the guide's commands."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from rtl.cli import main
from rtl.config import loading
from rtl.errors import BundleError
from tests.support import k8s_parts as parts
from tests.support.k8s_parts import (
    CLIENT,
    DASHBOARD,
    GCS,
    K8S,
    METRICS,
    OVERLAYS,
    ROOT,
    SERVE,
    STEPS,
    admitted,
    changed,
    clusters,
    fits,
    of,
    pods,
    serve_config,
    title,
    walk,
)  # fmt: skip
from tests.support.k8s_render import Manifest
from tests.support.k8s_schemas import check_serve

GUIDE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
PODS = {f"{overlay} {name}": pod for overlay in OVERLAYS for name, pod in pods(overlay)}


# Ray Serve


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_serve_takes_the_config_and_no_wrong_field_or_type(overlay: str) -> None:
    config = serve_config(overlay)
    check_serve(config)
    assert config["http_options"]["port"] == SERVE
    for way, node in walk(config):
        if isinstance(node, dict) and "args" not in way:  # (those are the builder's)
            for wrong in ({**node, "unknown_field": 1}, ["of no type"]):
                with pytest.raises(ValueError, match=r"."):
                    check_serve(changed(config, way, wrong))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_import_path_leads_to_a_builder_that_takes_the_arguments(overlay: str) -> None:
    from rtl.serving.application import Arguments
    from rtl.serving.deployment import build
    from rtl.serving.replica import Target

    (application,) = serve_config(overlay)["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert (application["name"], application["route_prefix"]) == ("rtl", "/")
    arguments = Arguments.model_validate(application["args"])
    settings = next(m["data"] for m in of("ConfigMap", overlay) if "RTL_NAME" in m["data"])
    assert arguments.storage == settings["RTL_STORAGE"]
    assert arguments.model == settings["RTL_NAME"]
    root = build(Target(bundle="s3://b/m"), arguments.serve)._bound_deployment
    below = [a._bound_deployment for a in root.init_args if hasattr(a, "_bound_deployment")]
    asked = {deployment["name"] for deployment in application["deployments"]}
    assert asked == {deployment.name for deployment in (root, *below)}


def test_ray_serve_gives_the_builder_its_arguments_as_it_takes_them(tmp_path: Path) -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call

    from rtl.serving.application import application

    with pytest.raises(BundleError, match="cells"):  # looked for where the arguments say
        call(application, {"storage": str(tmp_path), "model": "cells"})
    with pytest.raises(ValueError, match="modell"):
        call(application, {"storage": str(tmp_path), "modell": "cells"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_replicas_fit_into_the_endpoints_workers(overlay: str) -> None:
    from rtl.serving.application import Arguments

    (manifest,) = of("RayService", overlay)
    config = serve_config(overlay)
    serve = Arguments.model_validate(config["applications"][0]["args"]).serve
    (group,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert serve.replicas <= group["minReplicas"]
    assert serve.max_replicas == group["maxReplicas"]
    assert serve.cpus_per_replica < int(container["resources"]["limits"]["cpu"])  # and the proxy
    gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
    assert serve.gpus_per_replica == gpus == (overlay == "gpu")
    assert config["http_options"]["request_timeout_s"] >= serve.timeout_s + 10
    grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
    delay = manifest["spec"]["rayClusterDeletionDelaySeconds"]
    assert min(grace, delay) > serve.timeout_s + 5
    limits = of("Ingress", overlay)[0]["metadata"]["annotations"]
    sizes = {value for key, value in limits.items() if key.endswith("body-size")}
    assert {int(size.removesuffix("m")) for size in sizes} == {serve.max_body_mb}
    (budget,) = of("PodDisruptionBudget", overlay)
    labels = {**group["template"]["metadata"]["labels"], "ray.io/node-type": "worker"}
    assert fits(budget["spec"]["selector"], labels)
    assert 1 <= budget["spec"]["minAvailable"] < group["minReplicas"]


def test_an_upgrade_and_a_lost_head_keep_the_endpoint_up() -> None:
    (manifest,) = of("RayService")
    assert manifest["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    cluster = manifest["spec"]["rayClusterConfig"]
    name, _, port = cluster["gcsFaultToleranceOptions"]["redisAddress"].partition(":")
    (service,) = of("Service")
    (redis,) = of("StatefulSet")
    assert (name, int(port)) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    assert service["spec"]["selector"] == redis["spec"]["template"]["metadata"]["labels"]
    (claim,) = redis["spec"]["volumeClaimTemplates"]
    mounts = redis["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert claim["metadata"]["name"] in {mount["name"] for mount in mounts}
    (worker,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert worker["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": "serve"}


@pytest.mark.parametrize("name", PODS)
def test_ports_have_the_names_that_kuberay_and_prometheus_know(name: str) -> None:
    known = {"gcs-server": GCS, "dashboard": DASHBOARD, "client": CLIENT, "serve": SERVE,
             "metrics": METRICS, "redis": 6379}  # fmt: skip
    ports = {
        port["name"]: port["containerPort"]
        for container in PODS[name]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    assert ports.items() <= known.items()
    labels = PODS[name]["metadata"]["labels"]
    assert ("metrics" in ports) == (labels["rtl/role"] == "ray")
    assert ("serve" in ports) == (labels.get("app.kubernetes.io/component") == "endpoint")


# Jobs


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", of("RayJob"), ids=title)
def test_an_entrypoint_is_what_rtl_takes(overlay: str, job: Manifest, tmp_path: Path) -> None:
    (job,) = (m for m in of("RayJob", overlay) if title(m) == title(job))
    asked = [parts.parsed(call) for call in parts.commands(overlay, job, tmp_path)]
    name = job["metadata"]["name"].removeprefix("rtl-")
    assert [a.verb for a in asked] == (["pack", "search", "promote"] if name == "first" else [name])
    for arguments in asked:
        if arguments.verb in ("train", "search"):
            assert arguments.resume, "a retry would not go on"
            assert arguments.name
        if arguments.verb != "promote":
            loaded = loading.load(arguments.recipe, arguments.overrides)
            assert loaded.train.gpus_per_worker == (overlay == "gpu")
    spec = job["spec"]
    assert spec["rayClusterSpec"] == of("RayCluster", overlay)[0]["spec"]
    assert spec["shutdownAfterJobFinishes"] is True  # else no time-to-live is allowed
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0


RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_may_stand_in_the_settings(recipe: Path, tmp_path: Path) -> None:
    job = next(job for job in of("RayJob") if job["metadata"]["name"] == "rtl-search")
    longer = f"{job['spec']['entrypoint']} --recipe /srv/rtl/jobs/recipes/{recipe.name}"
    (call,) = parts.commands("cpu", changed(job, ("spec", "entrypoint"), longer), tmp_path)
    arguments = parts.parsed(call)
    assert loading.load(arguments.recipe, arguments.overrides).search


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_work_tolerates_spot_nodes_and_the_endpoint_does_not(overlay: str) -> None:
    for owner, cluster in clusters(overlay):
        head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
        tolerated = {t["key"] for t in worker["template"]["spec"].get("tolerations", [])}
        assert ("cloud.google.com/gke-spot" in tolerated) == (not owner.startswith("RayService"))
        assert ("nvidia.com/gpu" in tolerated) == (overlay == "gpu")
        assert "tolerations" not in head["template"]["spec"]
        (container,) = worker["template"]["spec"]["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (overlay == "gpu")


# Watching


def test_the_monitors_find_what_they_scrape() -> None:
    (service,) = of("ServiceMonitor")
    (endpoint,) = service["spec"]["endpoints"]
    there = of("RayService")[0]["spec"]["serveService"]
    assert fits(service["spec"]["selector"], there["metadata"]["labels"])
    assert endpoint["port"] in {port["name"] for port in there["spec"]["ports"]}
    prometheus = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    }
    (monitor,) = of("PodMonitor")
    (scraped,) = monitor["spec"]["podMetricsEndpoints"]
    found = [
        pod for _, pod in pods("cpu")
        if fits(monitor["spec"]["selector"], pod["metadata"]["labels"])
    ]  # fmt: skip
    assert len(found) == 14  # a head and a worker of each cluster
    for pod in found:
        assert scraped["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert prometheus in admitted(pod["metadata"]["labels"], METRICS)


BOARD = json.loads((K8S / "base" / "dashboard.json").read_text("utf-8"))
TARGETS = [target for panel in BOARD["panels"] for target in panel.get("targets", [])]
ASKED = sorted({m for t in TARGETS for m in re.findall(r"\b(?:ray|rtl)_\w+", t["expr"])})


@pytest.mark.parametrize("metric", ASKED)
def test_a_metric_of_the_dashboard_is_exported(metric: str) -> None:
    import ray

    if metric.startswith("rtl_"):
        assert metric in parts.exported_by_the_endpoint()
    elif metric.startswith("ray_rtl_"):
        source = (ROOT / "rtl" / "runs" / "ray_metrics.py").read_text("utf-8")
        assert f'"{metric.removeprefix("ray_")}"' in source
    else:
        boards = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
        known = "".join(path.read_text("utf-8") for path in boards.glob("*.py"))
        assert re.search(rf"\b{metric}\b", known), "Ray's own dashboards do not know it"


def test_the_dashboard_is_one_that_grafana_finds() -> None:
    kinds = Counter(panel["type"] for panel in BOARD["panels"])
    assert kinds["timeseries"] >= 12
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    board = next(m for m in of("ConfigMap") if m["metadata"]["name"] == "rtl-dashboard")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["dashboard.json"]) == BOARD


# The guide

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]


def chosen(selector: str) -> list[Manifest]:
    """What `-l` takes of the overlay."""
    steps = re.fullmatch(r"rtl/step(?:=(\w+)| in \((.+)\))", selector)
    assert steps, selector
    names = [steps[1]] if steps[1] else re.split(r",\s*", steps[2])
    for name in names:
        assert name in STEPS
    return [m for m in OVERLAYS["cpu"] if m["metadata"]["labels"]["rtl/step"] in names]


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_guide_names_what_there_is(line: str) -> None:
    made_by_kuberay = {"service/rtl-endpoint", "service/rtl-cluster-head-svc"}
    there = {f"{m['kind'].lower()}/{m['metadata']['name']}" for m in OVERLAYS["cpu"]}
    known = there | made_by_kuberay | {f"job/{m['metadata']['name']}" for m in of("RayJob")}
    for part in line.split(" | "):
        words = shlex.split(part)
        if words[0] == "rtl":
            assert main.parse(words[1:]).verb
            continue
        assert words[0] in {"kubectl", "bash", "docker", "export", "curl"}
        for flag, value in itertools.pairwise(words):
            if words[0] == "kubectl" and flag in ("-k", "-f") and value != "-":
                assert "?ref=v1.7.0" in value or (ROOT / value / "kustomization.yaml").exists()
            if flag == "-l":
                assert chosen(value)
        for word in words:
            if word.startswith(("k8s/", "cluster/")):
                assert (ROOT / word).exists()
            if re.match(r"(rayjob|job|service|raycluster|rayservice)/", word):
                assert word in known


def test_an_overlay_is_always_applied_by_steps() -> None:
    applied = [line for line in LINES if "apply -k" in line]
    assert len(applied) >= 6
    assert all(" -l " in line for line in applied)


def test_five_commands_lead_to_a_served_model() -> None:
    five = GUIDE.split("## Five commands")[1].split("```")[1].splitlines()[1:]
    assert len(five) == 5
    steps = [m for line in five for m in re.findall(r"-l '?([^']+?)'?$", line)]
    assert [{m["kind"] for m in chosen(step)} & {"RayJob", "RayService"} for step in steps] == [
        {"RayJob"}, {"RayService"},
    ]  # fmt: skip


def test_the_guide_names_no_missing_file_and_explains_every_step() -> None:
    for name in re.findall(r"`((?:k8s|jobs|docs|cluster)/[^` {]+)`", GUIDE):
        assert (ROOT / name).exists(), name
    for recipe in re.findall(r"/srv/rtl/(\S+\.yaml)", GUIDE):
        assert (ROOT / recipe).exists(), recipe
    assert set(re.findall(r"`(\w+)`", GUIDE.split("## The steps")[1].split("A RayJob")[0])) >= STEPS
