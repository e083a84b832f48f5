"""Writes the environment of a node into `environment.sh` and `Dockerfile`, beside this file.

    python cluster/environment.py      after a change of rtl/runtime/environment.py

The variables stand between two marks in each file; all else in the files is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rtl.runtime import environment

CLUSTER = Path(__file__).parent
BEGIN = "# Written by cluster/environment.py from rtl/runtime/environment.py:"
END = "# End of what cluster/environment.py writes."


def shell(variables: Mapping[str, str]) -> str:
    """Returns the lines that export variables in a shell."""
    return "".join(f"export {name}={value}\n" for name, value in variables.items())


def docker(variables: Mapping[str, str]) -> str:
    """Returns the instruction that sets variables in an image."""
    return "ENV " + " \\\n    ".join(f"{name}={value}" for name, value in variables.items()) + "\n"


def with_block(text: str, block: str) -> str:
    """Returns a file's text with `block` between the two marks, in place of what stands there."""
    before, rest = text.split(BEGIN + "\n")
    _, after = rest.split(END + "\n")
    return f"{before}{BEGIN}\n{block}{END}\n{after}"


def files() -> dict[Path, str]:
    """Returns the two files' whole text, by path, as the table makes them."""
    # The image has no HAProxy settings: the cluster's own manifests decide how it serves.
    in_image = {**environment.CLUSTER, **environment.SCHEDULING, **environment.COMPUTE}
    blocks = {"environment.sh": shell(environment.NODE), "Dockerfile": docker(in_image)}
    paths = {CLUSTER / name: block for name, block in blocks.items()}
    return {path: with_block(path.read_text(), block) for path, block in paths.items()}


def main() -> None:
    """Writes both files."""
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
