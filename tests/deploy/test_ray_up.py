"""`ray up` with the files of `cluster/`: Ray's own schema, parsers and rules hold them."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.aws.config import _create_default_inbound_rules
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

from rtl.runtime import capacity
from tests.support.cluster_files import CLUSTER, ROOT, load

SCHEMA = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
UP_FILES = ("aws.yaml", "machines.yaml")
Change = Callable[[dict[str, Any]], Any]


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
