"""Writes the requirements*.txt beside this file: each package's version, and its wheels' hashes.

    python cluster/lock.py      after a change of constraints.txt or pyproject.toml; needs `uv`

The versions are those of constraints.txt. The hashes are the package index's, for Linux on x86-64.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

CLUSTER = Path(__file__).parent
ROOT = CLUSTER.parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORM = "x86_64-manylinux_2_28"
# PyTorch's builds without CUDA, the image's wheels (Python 3.12), lie on an index of PyTorch's own,
# which this script does not ask. Change them together with constraints.txt: that index lists them.
CPU_BUILDS = {
    "torch": ("2.14.1+cpu", "5a6363570c753812540a05eb82380e329469cbe668643e88111414c12627711f"),
    "torchvision": (
        "0.29.1+cpu", "ef220d4b21878c58947851beb7337382897159105f012f0c9c07bf7e84174d7e",
    ),
}  # fmt: skip
CUDA_ONLY = ("cuda-", "nvidia-", "triton")

Locked = dict[str, tuple[str, set[str]]]
"""Version and sha256 of the wheels, by name."""


def resolve(*source: str) -> Locked:
    """What `source`, files and options of uv, needs under every Python of PYTHONS."""
    found: Locked = {}
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "pylock.toml")
            subprocess.run(
                [
                    "uv", "pip", "compile", *source, "-q",
                    f"--constraints={ROOT / 'constraints.txt'}", "--only-binary=:all:",
                    f"--python-version={python}", f"--python-platform={PLATFORM}", "-o", str(out),
                ],
                check=True,
            )  # fmt: skip
            packages = tomllib.loads(out.read_text())["packages"]
        names = {package["name"] for package in packages}
        if found and names != set(found):
            sys.exit(f"Python {python} needs other packages: {sorted(names ^ set(found))}.")
        for package in packages:
            hashes = {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
            version, known = found.setdefault(package["name"], (package["version"], set()))
            if version != package["version"]:
                sys.exit(f"Python {python} needs {package['name']} {package['version']}.")
            known |= hashes
    return found


def write(name: str, about: str, locked: Locked) -> None:
    """One line a package, as Ray's `runtime_env` reads a file line by line."""
    lines = [f"# Made by cluster/lock.py. {about}"]
    for package, (version, hashes) in sorted(locked.items()):
        lines.append(
            " ".join([f"{package}=={version}", *(f"--hash=sha256:{h}" for h in sorted(hashes))])
        )
    (CLUSTER / name).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Writes the three files."""
    everything = resolve(str(ROOT / "pyproject.toml"), "--extra=export")
    write(
        "requirements.txt",
        "What rtl[export] needs with PyTorch's CUDA build, which runs on CPUs too; all hashes are "
        f"the package index's, for Python {PYTHONS[0]} to {PYTHONS[-1]}.",
        everything,
    )
    without = {name: kept for name, kept in everything.items() if not name.startswith(CUDA_ONLY)}
    cpu = {name: (version, {digest}) for name, (version, digest) in CPU_BUILDS.items()}
    for name, (version, _) in cpu.items():
        if version.partition("+")[0] != everything[name][0]:
            sys.exit(f"CPU_BUILDS has {name} {version}, constraints.txt {everything[name][0]}.")
    write(
        "requirements-cpu.txt",
        "The same without CUDA, for the image (Python 3.12). The hashes of torch and torchvision "
        "are from others' public lock files, as PyTorch's index could not be asked; pip refuses a "
        "wheel that differs. All others are the package index's.",
        without | cpu,
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "build.in")
        source.write_text("\n".join(project["build-system"]["requires"]))
        write("requirements-build.txt", "What builds rtl's wheel.", resolve(str(source)))


if __name__ == "__main__":
    main()
