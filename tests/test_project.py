"""Facts that stand in more than one file of the project agree."""

import json
import re
import tomllib

import pytest

import guides
import sgdat_jax
from benchmarks import deployment

_PROJECT = tomllib.loads((guides.ROOT / "pyproject.toml").read_text())


def _read(name: str) -> str:
    return (guides.ROOT / name).read_text()


def test_one_version():
    (cited,) = re.findall(r"^version: (.+)$", _read("CITATION.cff"), re.M)
    newest = re.search(r"^## \[(.+?)\]", _read("CHANGELOG.md"), re.M)
    assert newest is not None
    assert cited == sgdat_jax.__version__ == newest[1]
    assert f"version = {{{cited}}}" in _read("docs/index.md")


def test_one_formatter():
    (tested,) = (
        name
        for name in _PROJECT["project"]["optional-dependencies"]["test"]
        if name.startswith("ruff")
    )
    hooked = re.findall(r"\[(ruff==[\d.]+)\]", _read(".pre-commit-config.yaml"))
    assert set(hooked) == {tested}


def test_one_address():
    source = _PROJECT["project"]["urls"]["Source"]
    for name in ("CITATION.cff", "docs/conf.py", ".github/CONTRIBUTING.md"):
        assert source in _read(name), name


def _counted(part):
    text = _read(f"benchmarks/results/reliability/{part}.json")
    return json.loads(text)["counted"]


def test_faults_are_those_counted():
    rows = {}
    for line in _read("docs/guides/reliability.md").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) == 3 and cells[1].replace(",", "").isdecimal():
            rows[cells[0]] = (int(cells[1].replace(",", "")), cells[2])
    kills = {name: rows.pop(f"`{name}` killed") for name in ("train", "compare")}
    for name in ("sweep", "data prepare"):
        kills[name] = rows.pop(f"`{name}` killed")
    kills["train on two hosts"] = rows.pop("`train` on two hosts, a process killed")
    for name, row in _counted("kills").items():
        alike = f"{row['ended alike']} results, all alike"
        assert (kills[name], row["faults"]) == ((row["kills"], alike), [])
    files, fuzzed = _counted("files"), _counted("fuzzed")
    known = [files["full disks"]["tried"], files["damaged files"]["tried"]]
    known.append(files["strange files"]["found again"])
    sums = [0, 0]
    for name, row in fuzzed.items():
        sums["json" not in name and "about" not in name] += row["read"] + row["refused"]
    assert [count for count, _ in rows.values()] == known + sums
    assert not any(row["faults"] for row in (*files.values(), *fuzzed.values()))


@pytest.mark.parametrize(
    ("folder", "label", "page"),
    [
        ("digits_comparison", "SGDAT", "README.md"),
        ("digits_comparison", "SGD", "README.md"),
        ("digits_comparison", "Bop", "README.md"),
        ("mnist_comparison", "SGDAT", "README.md"),
        ("mnist_comparison", "SGD", "README.md"),
        ("mnist_comparison", "Adam*", "README.md"),
        ("mnist_comparison", "SGD*", "docs/results.md"),
    ],
)
def test_numbers_are_those_recorded(folder, label, page):
    recorded = json.loads(_read(f"benchmarks/results/{folder}/comparison.json"))
    (row,) = (row for row in recorded["rows"] if row["label"] == label)
    accuracy, flips = row["test_accuracy"], row["flips_per_weight"]
    text = _read(page)
    assert f"{accuracy['mean']:.2%} ± {accuracy['std']:.2%}".replace("%", "") in text
    assert f"{flips['mean']:.2f} ± {flips['std']:.2f}" in text


def test_tables_of_deployment_are_those_recorded():
    lines = deployment.tables(deployment.RESULTS).splitlines()
    assert len(lines) > 10
    text = _read("benchmarks/README.md").splitlines()
    assert [line for line in lines if line not in text] == []
