"""The image: what it installs, how it is built, and the audit of its packages."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.runtime_env import RuntimeEnvConfig

from tests.support.cluster_files import CLUSTER, ROOT, instructions

# --- what is installed


def pins(path: Path) -> dict[str, str]:
    lines = [line.split(" ")[0] for line in path.read_text().splitlines() if line[:1] not in "#"]
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


LOCKED = ("requirements.txt", "requirements-cpu.txt", "requirements-build.txt")


@pytest.mark.parametrize("name", LOCKED)
def test_each_package_has_one_version_and_the_hashes_of_its_wheels(name: str) -> None:
    for line in (CLUSTER / name).read_text().splitlines():
        if not line.startswith("# "):
            assert re.fullmatch(r"[\w.-]+==[\w.+]+( --hash=sha256:[0-9a-f]{64})+", line), line


def test_versions_are_those_that_the_tests_run_with() -> None:
    tested = pins(ROOT / "constraints.txt")
    for name in LOCKED:
        locked = {key: v.removesuffix("+cpu") for key, v in pins(CLUSTER / name).items()}
        # `pip freeze` leaves setuptools out; the other three only build.
        free = {"setuptools", "hatchling", "tomlkit", "trove-classifiers"}
        assert set(locked) - set(tested) <= free
        assert {key: v for key, v in locked.items() if tested.get(key, v) != v} == {}


def test_all_that_rtl_needs_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = (
        project["project"]["dependencies"] + project["project"]["optional-dependencies"]["export"]
    )
    locked, cpu = pins(CLUSTER / "requirements.txt"), pins(CLUSTER / "requirements-cpu.txt")
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(locked[name]), name
    for requirement in map(Requirement, project["build-system"]["requires"]):
        built = pins(CLUSTER / "requirements-build.txt")[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(built)
    only_cuda = set(locked) - set(cpu)
    assert {name.split("-")[0] for name in only_cuda} == {"cuda", "nvidia", "triton"}
    assert {name for name in cpu if cpu[name] != locked.get(name)} == {"torch", "torchvision"}


def test_a_jobs_runtime_env_can_be_read_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env.validation import parse_and_validate_pip

    monkeypatch.chdir(ROOT)
    content = yaml.safe_load(Path("jobs/runtime_env.yaml").read_text())
    assert RuntimeEnvConfig(**content["config"])["setup_timeout_seconds"] > 600
    found = parse_and_validate_pip(content["pip"])
    assert found is not None
    packages = [line for line in found["packages"] if not line.startswith("#")]
    assert {canonicalize_name(line.split("==")[0]) for line in packages} == set(
        pins(CLUSTER / "requirements.txt")
    )
    assert all(" --hash=sha256:" in line for line in packages)


# --- the image


def image_problems(dockerfile: str) -> list[str]:
    """What must not be in the image's Dockerfile."""
    found = []
    steps = instructions(dockerfile)
    given: dict[str, str] = {}
    for rest in [rest for word, rest in steps if word == "ARG"]:
        given.setdefault(*rest.partition("=")[::2])
    stages: list[str] = []
    user = "root"
    for word, rest in steps:
        if word == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda m: given[m[1]], rest).partition(" AS ")
            if base not in stages and not re.fullmatch(r"[a-z]+:3\.1[123]-slim-[a-z]+", base):
                found.append(f"base {base}")
            stages.append(name)
        elif word == "USER":
            user = rest
        elif word == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                if not (ROOT / source).exists() or ignored(source):
                    found.append(f"source {source}")
        elif word == "RUN":
            for install in re.findall(r"pip install ([^&;|]*)", rest):
                if "--require-hashes" not in install and "--no-index" not in install:
                    found.append(f"install {install}")
        elif word == "ADD":
            found.append("ADD")
    arguments = dict(steps)
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        found.append(f"user {user}")
    if {f"variant-{kind}" for kind in ("cpu", "cuda")} - set(stages) or "VARIANT" not in given:
        found.append("variants")
    if json.loads(arguments.get("ENTRYPOINT", "[]")) != ["/usr/bin/tini", "--"]:
        found.append("entrypoint")
    if "RAY_AUTH_MODE=token" not in dockerfile:
        found.append("token")
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves the path out: the last line that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = [path, *map(str, Path(path).parents), Path(path).name]
        if line and line[0] != "#" and any(fnmatch.fnmatch(part, pattern) for part in parts):
            out = line[0] != "!"
    return out


def test_the_image_is_pinned_and_runs_as_a_user_who_can_change_nothing() -> None:
    assert image_problems((CLUSTER / "Dockerfile").read_text()) == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("USER 1000:1000", "USER root", "user root"),
        ("USER 1000:1000\n", "", "user root"),
        ("BASE=python:3.12-slim-bookworm", "BASE=python:latest", "base python:latest"),
        ("--require-hashes ", "", "install"),
        ("COPY jobs", "COPY job", "source job"),
        ("COPY rtl rtl", "COPY .git rtl", "source .git"),
        ("COPY rtl rtl", "ADD rtl rtl", "ADD"),
        ("variant-cuda\n", "gpu\n", "variants"),
        ('["/usr/bin/tini", "--"]', '["/bin/sh"]', "entrypoint"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "token"),
    ],
)
def test_a_mistake_in_the_dockerfile_is_seen(before: str, after: str, problem: str) -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert before in text
    assert any(found.startswith(problem) for found in image_problems(text.replace(before, after)))


def test_the_images_shell_commands_parse() -> None:
    for word, rest in instructions((CLUSTER / "Dockerfile").read_text()):
        if word == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)


def test_nothing_secret_goes_into_the_image() -> None:
    for name in (".git", ".venv", "cluster/local", "tests", "rtl-demo.html", "rtl/__pycache__"):
        assert ignored(name), name


# --- audit


@pytest.fixture
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", CLUSTER / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Ask = Callable[..., list[dict[str, Any]]]
SEEN = {"id": "PYSEC-1", "fix_versions": ["9"]}


@pytest.mark.parametrize(
    ("known", "others", "code", "said"),
    [
        # An index that has no such data answers so, and pip-audit takes that for good news.
        ({"skip_reason": "not found"}, {"skip_reason": "not found"}, 0, "Not audited"),
        ({"vulns": []}, {"vulns": []}, 0, "Not audited"),
        ({"vulns": [SEEN]}, {"vulns": []}, 0, "1 packages audited, 0 with"),
        ({"vulns": [SEEN]}, {"vulns": [SEEN]}, 1, "ray 1: PYSEC-1, fixed in 9"),
        ({"vulns": [SEEN]}, {"skip_reason": "unknown"}, 0, "ray: not audited, unknown"),
    ],
)
def test_the_audit_says_what_it_could_not_see(
    audit: Any, capsys: pytest.CaptureFixture[str],
    known: dict[str, Any], others: dict[str, Any], code: int, said: str,
) -> None:  # fmt: skip
    def ask(service: str, requirements: Path, options: Any = ()) -> list[dict[str, Any]]:
        answer = others if requirements.parent == CLUSTER else known
        return [{"name": "ray", "version": "1", **answer}]

    audit.ask = ask  # of this test's own copy of the module
    assert audit.main([]) == code
    assert said in capsys.readouterr().out
