"""Arguments and configs made by chance: clear errors, and nothing half-written."""

import dataclasses
import json
import random

import pytest

from sgdat_jax import cli, run_folder
from sgdat_jax.cli import options, work
from sgdat_jax.experiments import configs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_VALUES = (
    "",
    "0",
    "-1",
    "1",
    "2",
    "3.5",
    "1e-7",
    "1e400",
    "-inf",
    "nan",
    "None",
    "True",
    "x",
    "'*'",
    "*",
    "conv2",
    "digits",
    "digits/",
    "mnist",
    "tfds:",
    "tfds:no such set",
    "sgdat",
    "bop",
    "adam_star",
    "DigitsNet",
    "BinaryNet",
    "SgdatResNet18",
    "bfloat16",
    "approx_sign",
    "cosine",
    "a file",
    "a file/below",
    "a folder",
    "a new folder",
    "../a new folder",
    "x[1]",
    "\udcff",
    "\x00",
    "ü:smile:",
    "9" * 30,
    "y" * 300,
    "--",
    "-",
    "--help",
    "--recipe",
    "cifar10-binarynet-sgdat",
)


def _options(kind):
    of_jobs = {field.name for field in dataclasses.fields(options.Job)}
    return [
        prefix + field.name.replace("_", "-")
        for field in dataclasses.fields(kind)
        if field.name not in of_jobs
        for prefix in ("--", "--no-")
    ]


def _words(chance):
    name = chance.choice([*options.COMMANDS, "tain"])
    words = [name]
    kind = options.COMMANDS.get(name, [configs.TrainConfig])[0]
    known = [*_options(kind), "--recipe", "--resume"]
    for _ in range(chance.randrange(4)):
        if chance.random() < 0.8:
            words.append(chance.choice(known))
        words += chance.choices(_VALUES, k=chance.choice([0, 1, 1, 1, 2]))
    return words


def _contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _check_cases(cases, seed, tmp_path, capfd, monkeypatch):
    """Sets commands up, which finds all errors of the user, and does no work."""
    nothing = {
        name: one._replace(do=lambda prepared, terminal: None)
        for name, one in work.WORK.items()
    }
    monkeypatch.setattr(work, "WORK", nothing)
    chance = random.Random(seed)
    ends = {0: 0, 2: 0}
    for case in range(cases):
        folder = tmp_path / str(case)
        (folder / "here" / "a folder").mkdir(parents=True)
        (folder / "here" / "a file").write_text("mine")
        monkeypatch.chdir(folder / "here")
        before = _contents(folder)
        words = _words(chance)
        code = 0
        try:
            cli.main(words)
        except SystemExit as exit_:
            code = exit_.code or 0
        error = capfd.readouterr().err
        assert code in ends, (words, error)
        ends[code] += 1
        after = _contents(folder)
        if code:
            *skipped, error = error.splitlines()
            assert error.startswith("sgdat-jax: error: "), (words, error)
            assert all(line.startswith("sgdat-jax: skipped: ") for line in skipped)
            assert after == before, words
        assert before.items() <= after.items(), words
        assert not [path for path in after if path.suffix == ".partial"], words
    return ends


@pytest.mark.whole
def test_arguments_by_chance(tmp_path, capfd, monkeypatch):
    ends = _check_cases(25, 0, tmp_path, capfd, monkeypatch)
    assert ends[2] > 15


@pytest.mark.slow
def test_many_arguments_by_chance(tmp_path, capfd, monkeypatch):
    ends = _check_cases(600, 1, tmp_path, capfd, monkeypatch)
    print(ends)
    assert ends[0] > 20


def test_configs_by_chance(tmp_path):
    chance = random.Random(0)
    values = [None, True, 0, -1, 3, 1e-7, 0.5, "", "sgdat", [], [1], ["x"], {}, 1e400]
    valid = 0
    names = [field.name for field in dataclasses.fields(configs.TrainConfig)]
    for _ in range(500):
        changed = {
            chance.choice([*names, "format", "colour"]): chance.choice(values)
            for _ in range(chance.randrange(1, 3))
        }
        found = dataclasses.asdict(configs.TrainConfig()) | changed
        text = json.dumps(found)
        if chance.random() < 0.2:
            text = text[: chance.randrange(len(text))]
        (tmp_path / run_folder.CONFIG).write_text(text)
        try:
            run_folder.read_config(tmp_path, configs.TrainConfig)
            valid += 1
        except ValueError as error:
            assert str(tmp_path) in str(error)
    assert 20 < valid < 450
