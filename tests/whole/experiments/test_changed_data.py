"""A run knows its images: others are refused, or taken on request and recorded."""

import contextlib
import json
import shutil

import numpy as np
import pytest

import small_runs  # noqa: F401 (TinyNet)
from sgdat_jax import cli

pytestmark = pytest.mark.usefixtures("compiled_quickly", "without_drawing")

_TASK = ("--dataset", "./set", "--batch-size", "32", "--model", "TinyNet")
_TRAIN = ("train", *_TASK, "--resume", "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a small set of arrays and a run of one epoch on it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "set").mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        images = rng.integers(0, 256, (64, 8, 8, 1), np.uint8)
        np.save(folder / "set" / f"{part}_images.npy", images)
        np.save(folder / "set" / f"{part}_labels.npy", np.arange(64) % 2)
    with contextlib.chdir(folder):
        cli.main([*_TRAIN, "--epochs", "1"])
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """A copy of it, in which the test runs."""
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy"))
    return tmp_path / "copy"


def _change(folder, name):
    array = np.load(folder / "set" / name)
    array[3] = 1 - array[3]
    np.save(folder / "set" / name, array)


def _refused(*words):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    return caught.value.code == 2


def test_other_data_are_refused_or_recorded(folder, capsys):
    recorded = json.loads((folder / "run" / "config.json").read_text())["data"]
    _change(folder, "train_images.npy")
    _change(folder, "test_labels.npy")
    for words in (
        (*_TRAIN, "--epochs", "2"),
        ("evaluate", "run"),
        ("evaluate", "run/best.npz"),
    ):
        capsys.readouterr()
        assert _refused(*words)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "on other data: train_images, test_labels have changed since" in error
        assert "--allow-changed-data" in error
    cli.main(["evaluate", "run", "--allow-changed-data"])
    cli.main(["evaluate", "run/best.npz", "--allow-changed-data"])
    cli.main([*_TRAIN, "--epochs", "2", "--allow-changed-data"])
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["data_before"] == [recorded]
    changed = {key for key, value in config["data"].items() if value != recorded[key]}
    assert changed == {"train_images", "test_labels"}
    cli.main(["evaluate", "run"])  # on what it ended with


def test_finished_run_and_older_runs_are_left_alone(folder, capsys):
    _change(folder, "train_images.npy")
    cli.main([*_TRAIN])
    assert "already finished" in capsys.readouterr().out
    path = folder / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["data"]  # as former versions wrote it
    path.write_text(json.dumps(config))
    cli.main([*_TRAIN, "--epochs", "2"])
    assert json.loads(path.read_text())["epochs"] == 2


def test_sweep_of_other_data_is_refused(folder, capsys):
    words = ("sweep", *_TASK, "--epochs", "1")
    words += ("--learning-rate", "1e-4", "1e-3", "--seeds", "1", "--run-dir", "s")
    cli.main(words)
    _change(folder, "test_images.npy")
    assert _refused(*words)
    error = capsys.readouterr().err
    assert "sweep.json was trained on other data: test_images" in error
    assert error.endswith("; choose another run_dir.\n")


def test_comparison_of_other_data_is_refused(folder, capsys):
    words = ("compare", "--dataset", "./set", "--batch-size", "32", "--epochs", "1")
    words += ("--optimizers", "sgdat", "--run-dir", "all", "--seeds")
    cli.main([*words, "1"])
    _change(folder, "test_labels.npy")
    for seeds in ("1", "2"):
        assert _refused(*words, seeds)
        error = capsys.readouterr().err
        assert "config.json was trained on other data: test_labels have" in error
        assert error.endswith("; choose another run_dir.\n")
    assert [path.name for path in (folder / "all" / "sgdat").iterdir()] == ["seed0"]


def test_seeds_on_other_data_are_not_one_row(folder, capsys):
    _change(folder, "train_images.npy")
    words = [word if word != "run" else "other" for word in _TRAIN]
    cli.main([*words, "--epochs", "1", "--seed", "1"])
    capsys.readouterr()
    assert _refused("report", "run", "other", "--out", "table")
    assert capsys.readouterr().err == (
        "sgdat-jax: error: Runs that differ in their seed must have the same images "
        "and labels, got others in other than in run.\n"
    )
    assert not (folder / "table").exists()
