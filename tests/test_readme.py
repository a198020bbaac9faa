"""The README's code is run as a reader would run it."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _README, re.DOTALL | re.MULTILINE)


def _run(command: list[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    programs = str(pathlib.Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_readme_has_blocks_of_every_kind():
    assert len(_blocks("sh")) == 2
    assert len(_blocks("bash")) >= 1
    assert len(_blocks("python")) >= 4


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_block(code, tmp_path):
    (tmp_path / "example.py").write_text(code)
    done = _run([sys.executable, "-W", "error", "example.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


# The first shows the commands at their smallest; the others train several networks.
_SHELL = _blocks("bash")


@pytest.mark.parametrize(
    "commands",
    [_SHELL[0], *(pytest.param(block, marks=pytest.mark.slow) for block in _SHELL[1:])],
)
def test_shell_block(commands, tmp_path):
    done = _run(["bash", "-e", "-c", commands], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout or "last epoch" in done.stdout


def test_pictures_exist():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", _README)
    assert pictures
    assert [p for p in pictures if not (_ROOT / p).is_file()] == []
