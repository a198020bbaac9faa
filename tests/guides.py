"""Code blocks of Markdown pages, run in the order in which a reader runs them.

In `README.md` and the guides the language of a block says what becomes of it:

* ``python``: run; all blocks of a page share their names.
* ``bash``: run; commands of ``sgdat-jax`` in this process, others by a shell.
* ``console``: not run, as it needs a cluster, a download or hours; its lines begin
  with ``$``, and those of ``sgdat-jax`` must be parsed by the command.
* ``sh``: what sets up an environment; ``.ci/run`` runs those of the README.
* ``text`` and others: no code.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from sgdat_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
_NEEDED = {
    "--to iree": ("iree.compiler", "iree.runtime"),
    "--to onnx": ("onnx", "onnxruntime"),
    "--to torch": ("safetensors",),
}


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    code: str


def blocks(page: pathlib.Path, *languages: str) -> list[Block]:
    """Returns the blocks of a page in these languages, or in any."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.M)
    return [Block(*block) for block in found if block[0] in languages or not languages]


def commands(code: str) -> list[str]:
    """Returns the commands of a block, without prompts, comments and line breaks."""
    lines = code.replace("\\\n", " ").splitlines()
    lines = [line.strip().removeprefix("$ ") for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


def run(page: pathlib.Path) -> dict[str, Any]:
    """Runs a page in the current folder; returns the names of its Python code.

    Skips the rest of the page at a block whose packages are not installed.
    """
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(page, "python", "bash"):
        need(block.code)
        if block.language == "python":
            exec(compile(block.code, page.name, "exec"), names)
        else:
            run_shell(block.code)
    return names


def need(code: str) -> None:
    """Skips the test if the commands of a block need packages that are missing."""
    for word, packages in _NEEDED.items():
        for package in packages if word in code else ():
            pytest.importorskip(package)


def run_shell(code: str) -> None:
    """Runs a block in the current folder."""
    lines = commands(code)
    if all(line.startswith("sgdat-jax ") for line in lines):
        for line in lines:
            _run_command(line)
        return
    programs = str(pathlib.Path(sys.executable).parent)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-e", "-c", code], env=os.environ | {"PATH": path}, check=True
    )


def _run_command(line: str) -> None:
    """Runs a command in this process, which has imported everything already."""
    try:
        cli.main(shlex.split(line)[1:])
    except SystemExit as end:
        assert not end.code, line
