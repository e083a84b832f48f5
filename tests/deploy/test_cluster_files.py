"""`cluster/` is held against Ray's own schema, parsers and rules; its guide against the files."""

from __future__ import annotations

import copy
import fnmatch
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private import command_runner
from ray.autoscaler._private.aws.config import _create_default_inbound_rules
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnvConfig
from ray.scripts.scripts import cli as ray_cli

from rtl.cli import main
from rtl.runtime import capacity, session

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMA = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
UP_FILES = ("aws.yaml", "machines.yaml")
Change = Callable[[dict[str, Any]], Any]


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return content


def check(config: dict[str, Any]) -> None:
    """As `ray up` does before it asks a cloud."""
    jsonschema.validate(config, SCHEMA)
    validate_config(prepare_config(copy.deepcopy(config)))


# --- ray up


@pytest.mark.parametrize("name", UP_FILES)
def test_ray_up_takes_the_file(name: str) -> None:
    check(load(name))


BROKEN: list[tuple[str, str, Change]] = [
    *(
        (name, what, change)
        for name in UP_FILES
        for what, change in (
            ("unknown field", lambda c: c.update(setup_command=["true"])),
            ("command that is none", lambda c: c["setup_commands"].append(1)),
            ("commands as text", lambda c: c.update(head_start_ray_commands="ray start")),
            ("number as text", lambda c: c.update(max_workers="6")),
            ("no provider", lambda c: c.pop("provider")),
            ("unknown way in", lambda c: c["auth"].update(ssh_password="x")),
            ("mounts as a list", lambda c: c.update(file_mounts=["a"])),
        )
    ),
    ("aws.yaml", "no such head", lambda c: c.update(head_node_type="chief")),
    (
        "aws.yaml",
        "fewer than the least",
        lambda c: c["available_node_types"]["gpu"].update(min_workers=7),
    ),
    ("aws.yaml", "resource as text", lambda c: resources(c).update(CPU="0")),
    ("aws.yaml", "unknown in a group", lambda c: c["provider"]["security_group"].update(Ports=[])),
    ("aws.yaml", "unknown in a type", lambda c: c["available_node_types"]["gpu"].update(spot=True)),
    ("machines.yaml", "address that is none", lambda c: c["provider"].update(head_ip=1)),
]


def resources(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["available_node_types"]["head"]["resources"]
    return found


@pytest.mark.parametrize(
    ("name", "what", "change"), BROKEN, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_wrong_field_or_type_is_seen(name: str, what: str, change: Change) -> None:
    config = load(name)
    check(config)
    change(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check(config)


def start_commands(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Head's, then workers': the shell's words before `ray start`, and the arguments after it."""
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = [command for command in config[key] if "ray start" in command]
        (command,) = commands
        before, _, after = command.partition("ray start ")
        yield before, after


def ray_options(command: str, arguments: str) -> dict[str, Any]:
    """The options of a `ray` command, parsed by Ray."""
    parser = ray_cli.commands[command]
    return parser.make_context(command, shlex.split(arguments)).params


@pytest.mark.parametrize("name", UP_FILES)
def test_nodes_start_with_a_token_a_closed_dashboard_and_known_ports(name: str) -> None:
    config = load(name)
    (head_before, head), (worker_before, worker) = start_commands(config)
    for before in (head_before, worker_before):
        assert before.endswith("RAY_AUTH_MODE=token ")
        assert before.startswith(". ~/rtl/environment.sh; ")
    options, others = ray_options("start", head), ray_options("start", worker)
    assert options["head"]
    assert not others["head"]
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert others["address"] == f"$RAY_HEAD_IP:{options['port']}"
    # A firewall can be written: no port is left to chance, none is used twice, none by workers.
    ports = {key: value for key, value in options.items() if key.endswith("port")}
    shared = set(ports) - {"port", "ray_client_server_port", "dashboard_port"}
    assert {key: ports[key] for key in shared} == {key: others[key] for key in shared}
    assert None not in ports.values()
    low, high = ports.pop("min_worker_port"), ports.pop("max_worker_port")
    assert len(set(ports.values())) == len(ports)
    assert not [port for port in ports.values() if low <= int(port) <= high]


def test_both_files_start_ray_alike() -> None:
    assert list(start_commands(load("aws.yaml"))) == list(start_commands(load("machines.yaml")))


@pytest.mark.parametrize("name", UP_FILES)
def test_what_is_brought_to_the_nodes_exists_or_is_the_users_own_secret(name: str) -> None:
    mounts = load(name)["file_mounts"]
    own = {remote for remote, local in mounts.items() if local.startswith("~")}
    assert own == {"~/.ray/auth_token", "~/rtl/secrets.sh"}
    assert all((ROOT / local).is_file() for remote, local in mounts.items() if remote not in own)
    used = set(re.findall(r"~/rtl/[\w.]+(?:txt|sh)", json.dumps(load(name)["setup_commands"])))
    assert used - {"~/rtl/node.sh"} <= set(mounts)


# --- AWS


def open_to_all(config: dict[str, Any]) -> list[tuple[str, int, int]]:
    """What Ray's security group lets in from outside: protocol, first and last port."""
    added = config["provider"]["security_group"].get("IpPermissions", [])
    rules = _create_default_inbound_rules({"sg-own"}, added)
    inside = [rule for rule in rules if set(rule) & {"UserIdGroupPairs"}]
    assert inside == [rule for rule in rules if "IpRanges" not in rule]
    return [
        (rule["IpProtocol"], rule["FromPort"], rule["ToPort"])
        for rule in rules
        if rule not in inside
    ]


def test_only_ssh_is_open_on_aws() -> None:
    config = load("aws.yaml")
    assert open_to_all(config) == [("tcp", 22, 22)]
    config["provider"]["security_group"]["IpPermissions"] = [
        {"IpProtocol": "tcp", "FromPort": 8265, "ToPort": 8265, "IpRanges": [{"CidrIp": "::/0"}]}
    ]
    assert ("tcp", 8265, 8265) in open_to_all(config)


class Template(yaml.SafeLoader):
    """CloudFormation: `!Ref X` is read as {"Ref": X}."""


Template.add_multi_constructor(
    "!",
    lambda loader, tag, node: {tag: loader.construct_scalar(node)},
)


@pytest.fixture(scope="module")
def roles() -> dict[str, Any]:
    text = (CLUSTER / "aws-roles.yaml").read_text()
    content: dict[str, Any] = yaml.load(text, Loader=Template)["Resources"]  # noqa: S506 - a SafeLoader
    return content


def test_the_roles_of_aws_yaml_are_made_and_no_key_is_needed(roles: dict[str, Any]) -> None:
    made = {
        part["Properties"]["InstanceProfileName"]
        for part in roles.values()
        if part["Type"] == "AWS::IAM::InstanceProfile"
    }
    types = load("aws.yaml")["available_node_types"]
    named = {
        kind: part["node_config"]["IamInstanceProfile"]["Name"] for kind, part in types.items()
    }
    assert named == {"head": "rtl-head", "cpu": "rtl-worker", "gpu": "rtl-worker"}
    assert set(named.values()) == made


def test_a_role_may_do_no_more_than_it_has_to(roles: dict[str, Any]) -> None:
    bucket = [s["Resource"] for s in roles["Data"]["Properties"]["PolicyDocument"]["Statement"]]
    assert bucket == [{"GetAtt": "Store.Arn"}, {"Sub": "${Store.Arn}/*"}]
    assert "Policies" not in roles["Worker"]["Properties"]
    (nodes,) = roles["Head"]["Properties"]["Policies"]
    for statement in nodes["PolicyDocument"]["Statement"]:
        actions = statement["Action"]
        actions = [actions] if isinstance(actions, str) else actions
        assert "*" not in actions
        if statement["Resource"] == "*":
            assert actions == ["ec2:Describe*"] or "Condition" in statement
        if "ec2:TerminateInstances" in actions:
            tag = statement["Condition"]["StringEquals"]["aws:ResourceTag/ray-cluster-name"]
            assert tag == load("aws.yaml")["cluster_name"]


def test_aws_nodes_are_spot_where_they_compute_and_use_the_region_of_the_bucket() -> None:
    config = load("aws.yaml")
    types = config["available_node_types"]
    spot = {kind for kind, part in types.items() if "InstanceMarketOptions" in part["node_config"]}
    assert spot == {"gpu"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert 0 == types["gpu"]["min_workers"] < types["gpu"]["max_workers"]
    waits = [c for c in config["setup_commands"] if f"export {capacity.SCALE_UP}=" in c]
    assert [">> ~/rtl/node.sh" in c for c in waits] == [True]
    region = config["provider"]["region"]
    named = re.findall(r"REGION=(\S+?)['\s]", "\n".join(config["setup_commands"]))
    assert named == [region, region]
    assert (CLUSTER / "aws.yaml").read_text().count(" # REGION") == 2


def test_no_key_token_or_address_of_a_registry_lies_in_the_files() -> None:
    for path in CLUSTER.iterdir():
        if path.is_file() and path.name != "local":
            text = path.read_text()
            assert not re.search(r"https?://|AKIA|SECRET_ACCESS_KEY=|TOKEN=[0-9a-f]{8}", text), path


# --- machines of one's own


@pytest.mark.parametrize(
    ("addresses", "code"),
    [("192.168.1.10 172.17.0.1", 0), ("10.0.0.4 2001:4860::8888", 0), ("10.0.0.4 8.8.8.8", 1)],
)
def test_a_machine_with_a_public_address_is_refused(
    tmp_path: Path, addresses: str, code: int
) -> None:
    fake = tmp_path / "hostname"
    fake.write_text(f"#!/bin/sh\necho '{addresses}'\n")
    fake.chmod(0o755)
    (command,) = load("machines.yaml")["initialization_commands"]
    done = subprocess.run(
        ["bash", "-c", f"PATH={tmp_path}:$PATH; {command}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("['8.8.8.8']" in done.stderr) == bool(code)


# --- the environment


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `environment.sh` makes of the environment in which `ray up` runs its commands."""
    assert "export OMP_NUM_THREADS=1" in str(command_runner._with_interactive("true"))
    home = tmp_path_factory.mktemp("home")
    (home / "rtl").mkdir()
    (home / "rtl" / "secrets.sh").write_text("export RTL_TOKEN=mine\n")
    (home / "rtl" / "node.sh").write_text("export AWS_REGION=here\n")
    done = subprocess.run(
        ["sh", "-eu", "-c", f". {CLUSTER / 'environment.sh'}; env -0"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pairs = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
    assert pairs["PATH"].startswith(f"{home}/rtl/venv/bin:")
    assert pairs["RAY_AUTH_TOKEN_PATH"] == f"{home}/.ray/auth_token"
    return pairs


def test_nodes_have_the_token_the_threads_and_the_secrets(environment: dict[str, str]) -> None:
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RTL_TOKEN"] == "mine"
    assert environment["AWS_REGION"] == "here"
    assert session.THREAD_ENV.items() <= environment.items()
    assert environment["RAY_worker_niceness"] == "0"
    assert "OMP_NUM_THREADS" not in environment  # every worker would compute with one thread


def settings(environment: dict[str, str]) -> dict[str, str]:
    """Those of Ray, memory and threads, without paths and ports."""
    names = ("RAY_", "MALLOC_", "GLIBC_", "OMP_", "GOMP_")
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(names) and not value.startswith("/") and not name.endswith("_PORT")
    }


def test_a_cluster_on_one_machine_has_the_same_environment(environment: dict[str, str]) -> None:
    given = re.search(r"^ENVIRONMENT = (\{.*?^\})", (CLUSTER / "local").read_text(), re.M | re.S)
    assert given is not None
    assert yaml.safe_load(given[1]) == settings(environment)


def test_a_laptop_serves_with_the_same_settings(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    nodes = settings(environment)
    assert settings(session._ingress_env(tmp_path)) == {
        name: value for name, value in nodes.items() if name.startswith("RAY_SERVE_")
    }


def test_haproxy_of_the_nodes_runs_without_splice(environment: dict[str, str]) -> None:
    mounts = load("machines.yaml")["file_mounts"]
    named = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    script = ROOT / mounts[named.replace(environment["HOME"], "~")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(script), "-v"], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("HAProxy version")
    assert 'haproxy" -dS "$@"' in script.read_text()


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


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    lines = [line for line in dockerfile.splitlines() if line.strip() and line[0] != "#"]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


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


def test_the_image_has_the_environment_of_a_node(environment: dict[str, str]) -> None:
    joined = [
        rest for word, rest in instructions((CLUSTER / "Dockerfile").read_text()) if word == "ENV"
    ]
    pairs = dict(pair.split("=", 1) for rest in joined for pair in rest.split())
    wanted = {key for key in pairs if key.startswith("RAY_")} | session.THREAD_ENV.keys()
    shared = {key: pairs[key] for key in wanted & pairs.keys()}
    assert session.THREAD_ENV.items() <= shared.items() <= environment.items()


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
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    known: dict[str, Any], others: dict[str, Any], code: int, said: str,
) -> None:  # fmt: skip
    def ask(service: str, requirements: Path, options: Any = ()) -> list[dict[str, Any]]:
        answer = others if requirements.parent == CLUSTER else known
        return [{"name": "ray", "version": "1", **answer}]

    monkeypatch.setattr(audit, "ask", ask)
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: name)
    assert audit.main([]) == code
    assert said in capsys.readouterr().out


# --- the guide


def guide() -> list[list[str]]:
    """The commands of docs/clusters.md, in its blocks and in its lines."""
    text = (ROOT / "docs" / "clusters.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r"`((?:ray|rtl) [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
    commands = [re.sub(r" >\S+$", "", line) for block in blocks for line in block.splitlines()]
    return [shlex.split(command) for command in (*commands, *inline)]


NAMES = (["rtl", "submit"], ["ray", "up"], ["ray", "down"], ["ray", "dashboard"])
"""Commands that the text names without calling them."""


def test_the_guides_commands_are_taken_by_the_real_parsers() -> None:
    seen = set()
    for command in guide():
        program, *arguments = command
        seen.add(program)
        if command in NAMES or command == ["ray", "attach", "-p", "8000"]:
            continue
        if program == "rtl":
            main.parse(arguments)
        elif program == "ray":
            ray_cli.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        elif program == "docker":
            given = dict(x.split("=", 1) for x in arguments if re.match(r"[A-Z_]+=", x))
            declared = re.findall(r"^ARG (\w+)", (CLUSTER / "Dockerfile").read_text(), re.M)
            assert set(given) <= set(declared)
            assert given["VARIANT"] in ("cpu", "cuda")
            assert arguments[-2].split(":")[1].split("-")[0] == version()
    assert {"ray", "rtl", "docker", "python", "aws"} <= seen


def version() -> str:
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def test_the_guides_files_exist_and_its_recipe_fits_the_cluster() -> None:
    words = [word for command in guide() for word in command]
    files = {word for word in words if re.match(r"(cluster|jobs|docs)/", word)}
    assert {"cluster/aws.yaml", "cluster/lock.py", "cluster/audit.py"} <= files
    assert [name for name in files if not (ROOT / name).is_file()] == []
    recipe = yaml.safe_load((ROOT / "jobs" / "recipes" / "stanford_dogs.yaml").read_text())
    gpu = load("aws.yaml")["available_node_types"]["gpu"]
    assert recipe["train"]["workers"] * recipe["train"]["gpus_per_worker"] <= gpu["max_workers"]
