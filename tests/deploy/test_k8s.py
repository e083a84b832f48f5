"""The manifests of `k8s/`, valid, closed, and of the pinned versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from tests.support.k8s_parts import (
    CLIENT,
    DASHBOARD,
    GCS,
    K8S,
    KEYS,
    METRICS,
    OVERLAYS,
    ROOT,
    SECRETS,
    SERVE,
    STEPS,
    TOKENS,
    admitted,
    changed,
    clusters,
    of,
    pods,
    secrets,
    title,
    walk,
)  # fmt: skip
from tests.support.k8s_render import read
from tests.support.k8s_schemas import check

PODS = {f"{overlay} {name}": pod for overlay in OVERLAYS for name, pod in pods(overlay)}
MANIFESTS = {
    f"{where} {title(manifest)}": manifest
    for where, manifests in {**OVERLAYS, "secrets": SECRETS}.items()
    for manifest in manifests
}


# Validity


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_would_take_the_manifest(name: str) -> None:
    check(MANIFESTS[name])


FREE = {"data", "stringData", "labels", "annotations", "matchLabels", "limits", "requests",
        "rayStartParams"}  # fmt: skip
"""Mappings whose keys are anybody's."""


GPU_ONLY = ("gpu RayCluster-rtl-cluster", "gpu RayService-rtl-endpoint")


@pytest.mark.parametrize("name", [n for n in MANIFESTS if n[:3] != "gpu" or n in GPU_ONLY])
def test_a_wrong_field_or_type_in_the_manifest_is_refused(name: str) -> None:
    """In every mapping of it, whatever lies how deep."""
    manifest = MANIFESTS[name]
    check(manifest)
    with pytest.raises(ValueError, match="unknownField"):
        check({**manifest, "unknownField": "x"})
    tried = 0
    for way, node in walk(manifest):
        # (A RayJob's cluster is the RayCluster's.)
        if not isinstance(node, dict) or not way or way[1:2] == ("rayClusterSpec",):
            continue
        wrongs: list[Any] = [["of no type"]]
        if way[-1] not in FREE and (manifest["kind"], way[-1]) != ("Service", "selector"):
            wrongs.append({**node, "unknownField": "x"})
        for wrong in wrongs:
            with pytest.raises(ValueError, match=r"unknownField|of no type"):
                check(changed(manifest, way, wrong))
            tried += 1
    assert tried >= 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_prints_what_is_tested_here(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    printed = subprocess.run(
        ["kubectl", "kustomize", K8S / "overlays" / overlay],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    assert sorted(yaml.safe_load_all(printed), key=title) == sorted(OVERLAYS[overlay], key=title)


def test_every_yaml_file_is_part_of_a_kustomization() -> None:
    used = set()
    for kustomization in K8S.rglob("kustomization.yaml"):
        (content,) = read(kustomization)
        entries = content["resources"] + [each["path"] for each in content.get("patches", [])]
        used |= {kustomization, *((kustomization.parent / each).resolve() for each in entries)}
    assert set(K8S.rglob("*.yaml")) <= used


@pytest.mark.parametrize("name", [name for name in MANIFESTS if not name.startswith("secrets")])
def test_every_manifest_belongs_to_a_step_and_to_rtl(name: str) -> None:
    labels = MANIFESTS[name]["metadata"]["labels"]
    assert labels["rtl/step"] in STEPS
    assert labels["app.kubernetes.io/part-of"] == "rtl"


def test_both_overlays_hand_settings_and_cluster_on_alike() -> None:
    cpu, gpu = (read(K8S / "overlays" / name / "kustomization.yaml")[0] for name in OVERLAYS)
    assert cpu["replacements"] == gpu["replacements"]


# Versions, names, secrets

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
RAY = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", PODS)
def test_images_are_the_pinned_ones(name: str) -> None:
    suffix = "-cuda" if name.startswith("gpu") else ""
    for container in PODS[name]["spec"]["containers"]:
        wanted = "redis:7.4.2-bookworm" if "rtl-redis" in name else f"rtl:{VERSION}{suffix}"
        assert container["image"] == wanted


def test_the_image_is_what_the_manifests_take_it_for() -> None:
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text("utf-8")
    assert "USER 1000:1000" in dockerfile
    assert "COPY jobs /srv/rtl/jobs" in dockerfile
    assert "wget" in dockerfile, "KubeRay's probes ask by it"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_is_the_pinned_one_and_asks_for_its_token(overlay: str) -> None:
    found = dict(clusters(overlay))
    assert len(found) == 7
    for owner, cluster in found.items():
        assert [cluster["rayVersion"]] == RAY, owner
        assert cluster["authOptions"] == {"mode": "token", "secretName": "rtl-ray-token"}
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in cluster["workerGroupSpecs"]:
            assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        # The autoscaler of version 2 replaces pods itself; KubeRay refuses another policy.
        for node in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert "restartPolicy" not in node["template"]["spec"]


def test_ray_clusters_do_not_share_a_services_name() -> None:
    """KubeRay names a head's Service after the RayCluster or the RayService."""
    names = [m["metadata"]["name"] for m in OVERLAYS["cpu"] if m["kind"].startswith("Ray")]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 40


def test_secrets_and_settings_that_pods_name_are_there() -> None:
    there = {("Secret", m["metadata"]["name"]): m["stringData"] for m in SECRETS[1:]}
    there |= {("ConfigMap", m["metadata"]["name"]): m["data"] for m in of("ConfigMap")}
    named = set()
    for manifest in OVERLAYS["cpu"]:
        for _, node in walk(manifest):
            if not isinstance(node, dict):
                continue
            for key, kind in (("secretKeyRef", "Secret"), ("credentials", "Secret")):
                if key in node:
                    assert node[key]["key"] in there[kind, node[key]["name"]]
                    named.add(node[key]["name"])
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if key in node:
                    assert there[kind, node[key]["name"]]
                    named.add(node[key]["name"])
            if "authOptions" in node:  # KubeRay's name of the key
                assert there["Secret", node["authOptions"]["secretName"]] == {
                    "auth_token": TOKENS["RAY_AUTH_TOKEN"]
                }
    assert named == {"rtl-endpoint-token", "rtl-redis", "rtl-s3", "rtl-settings"}
    assert there["Secret", "rtl-s3"] == KEYS


def test_no_file_holds_a_secret() -> None:
    assert "Secret" not in {manifest["kind"] for manifest in OVERLAYS["cpu"]}
    for manifest in OVERLAYS["cpu"] + OVERLAYS["gpu"]:
        for _, node in walk(manifest):
            if isinstance(node, dict) and re.search("TOKEN|KEY|PASS|AUTH", str(node.get("name"))):
                assert "value" not in node, node
    assert not [key for key in of("ConfigMap")[0]["data"] if "KEY" in key or "TOKEN" in key]


@pytest.mark.parametrize("missing", TOKENS)
def test_a_short_or_missing_secret_is_refused(missing: str) -> None:
    for value in ("", "short"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            secrets(**{**TOKENS, missing: value})
        assert missing in refused.value.stderr
        assert refused.value.stdout == ""


def test_the_secrets_namespace_is_that_of_the_ground() -> None:
    assert SECRETS[0] == of("Namespace")[0]
    without_keys = [m["metadata"]["name"] for m in yaml.safe_load_all(secrets(**TOKENS))]
    assert without_keys == ["rtl", "rtl-ray-token", "rtl-endpoint-token", "rtl-redis"]


# Security


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_without_rights(name: str) -> None:
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] >= 999
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert {next(iter(set(v) - {"name"})) for v in spec.get("volumes", [])} <= {"emptyDir"}
    head = "headGroupSpec" in name
    assert spec["automountServiceAccountToken"] is head  # its autoscaler talks to Kubernetes
    accounts = {m["metadata"]["name"] for m in of("ServiceAccount")}
    if "redis" not in name:
        assert spec["serviceAccountName"] in accounts
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        locked(container)


def locked(container: Any) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted in ({"/tmp"}, {"/data"})  # noqa: S108
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_autoscaler_that_kuberay_adds_is_locked_too(overlay: str) -> None:
    for _, cluster in clusters(overlay):
        locked(cluster["autoscalerOptions"])


def test_the_namespace_refuses_pods_with_rights() -> None:
    labels = of("Namespace")[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"].get("namespace", "rtl") for m in OVERLAYS["cpu"]} == {"rtl"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_but_the_endpoints_port_leads_in_from_outside(overlay: str) -> None:
    for manifest in OVERLAYS[overlay]:
        for way, node in walk(manifest):
            if isinstance(node, dict):
                assert node.get("type") not in ("LoadBalancer", "NodePort"), way
                assert not {"serviceType", "enableIngress", "hostPort", "externalIPs"} & set(node)
    (ingress,) = of("Ingress", overlay)
    (service,) = of("RayService", overlay)
    paths = [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    behind = [path["backend"]["service"] for path in paths]
    name = service["spec"]["serveService"]["metadata"]["name"]
    assert behind == [{"name": name, "port": {"number": SERVE}}]
    assert "defaultBackend" not in ingress["spec"]
    hosts = {host for tls in ingress["spec"]["tls"] for host in tls["hosts"] if tls["secretName"]}
    assert {rule["host"] for rule in ingress["spec"]["rules"]} == hosts


OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
RAYS = {"podSelector": {"matchLabels": {"rtl/role": "ray"}}}
SUBMITTER = {"podSelector": {"matchLabels": {"rtl/role": "submitter"}}}
KUBERAY = {"namespaceSelector": {}, "podSelector": {"matchLabels": OPERATOR}}


@pytest.mark.parametrize("name", PODS)
def test_the_network_lets_only_rays_pods_and_those_it_must_reach_a_pod(name: str) -> None:
    labels = PODS[name]["metadata"]["labels"]
    role, head = labels["rtl/role"], "headGroupSpec" in name
    rays = [] if role == "submitter" else [RAYS]
    if role == "ray":
        assert admitted(labels, GCS) == rays
        assert admitted(labels, CLIENT) == rays
        assert admitted(labels, DASHBOARD) == rays + ([SUBMITTER, KUBERAY] if head else [])
    else:
        assert admitted(labels, GCS) == rays  # Redis's port is the same
        assert not any(admitted(labels, port) for port in (DASHBOARD, CLIENT, SERVE, METRICS))
    from_outside = [peer for peer in admitted(labels, SERVE) if "podSelector" not in peer]
    assert bool(from_outside) == (labels.get("app.kubernetes.io/component") == "endpoint")
