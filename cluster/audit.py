"""Tells which packages of the image have known vulnerabilities.

    python cluster/audit.py [--ignore-vuln ID]      needs pip-audit; takes its options

Ends with 1 where it found one. Where no data can be reached it says so, and ends with 0.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CLUSTER = Path(__file__).parent
FILES = ("requirements.txt", "requirements-build.txt")
SERVICES = ("pypi", "osv")
# pip-audit calls a package that an index knows nothing about skipped, and ends well. So it is asked
# first about one that has vulnerabilities: only who knows those can say that there are no others.
KNOWN_BAD = "urllib3==1.26.4"


def ask(service: str, requirements: Path, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """pip-audit's word on each package; empty where the service does not answer."""
    command = [
        sys.executable, "-m", "pip_audit", f"--vulnerability-service={service}", "--format=json",
        "--progress-spinner=off", "--disable-pip", "--no-deps", f"--requirement={requirements}",
        *options,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return []
    return found


def knows(service: str) -> bool:
    """Whether the service has vulnerabilities to tell of."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder, "known.txt")
        known.write_text(KNOWN_BAD + "\n")
        return any(package.get("vulns") for package in ask(service, known))


def findings(service: str, name: str, options: Sequence[str]) -> tuple[list[str], int]:
    """What the service says of a file's packages, line by line, and how many are vulnerable."""
    packages = ask(service, CLUSTER / name, options)
    if not packages:
        return [f"{name}: not audited, {service} stopped answering."], 0
    lines, bad = [], 0
    for package in packages:
        title = f"{name}: {package['name']}"
        if "skip_reason" in package:
            lines.append(f"{title}: not audited, {package['skip_reason']}")
        for vulnerability in package.get("vulns", []):
            fixed = ", ".join(vulnerability["fix_versions"]) or "no release yet"
            lines.append(f"{title} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
        bad += bool(package.get("vulns"))
    return [*lines, f"{name}: {len(packages)} packages audited, {bad} with vulnerabilities."], bad


def main(options: Sequence[str]) -> int:
    """The exit code."""
    if importlib.util.find_spec("pip_audit") is None:
        sys.stderr.write("Not audited: pip-audit is not installed (`pip install pip-audit`).\n")
        return 1
    service = next((service for service in SERVICES if knows(service)), None)
    if service is None:
        sys.stdout.write("Not audited: no vulnerability data can be reached from here.\n")
        return 0
    total = 0
    for name in FILES:
        lines, bad = findings(service, name, options)
        sys.stdout.write("\n".join(lines) + "\n")
        total += bad
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
