"""`docs/clusters.md` is held against the files and the real parsers."""

from __future__ import annotations

import re
import shlex
import tomllib

import yaml
from ray.scripts.scripts import cli as ray_cli

from rtl.cli import main
from tests.support.cluster_files import CLUSTER, ROOT, load


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
