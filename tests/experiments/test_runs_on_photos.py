"""Runs on folders of photos, and what is chosen for them."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import small_runs  # noqa: F401 (TinyNet)
from sgdat_jax import cli, inference, run_folder
from sgdat_jax.data import pictures
from sgdat_jax.data.photo_sets import photos
from sgdat_jax.experiments import compare, configs, setup, sweep
from sgdat_jax.inference import weight_files
from sgdat_jax.training import runs

pytestmark = pytest.mark.usefixtures("compiled_quickly", "without_drawing")


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A folder of photos of three classes, which differ in brightness."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "elk")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(10):
            pixels = rng.integers(80 * label, 80 * label + 40, (20, 30, 3), np.uint8)
            path = tmp_path / "pets" / name / f"{index}.png"
            Image.fromarray(pixels).save(path)
    return "pets/"


def _settings(dataset, **changes):
    return {"dataset": dataset, "batch_size": 8, "epochs": 2, **changes}


@pytest.mark.whole
def test_a_run_on_photos(pets, capsys):
    words = ["train", "--dataset", pets, "--model", "TinyNet", "--batch-size", "8"]
    cli.main([*words, "--epochs", "10", "--run-dir", "run", "--image-size", "10"])
    output = capsys.readouterr()
    assert output.err == ""
    first = output.out.splitlines()
    assert first[0] == "TinyNet on pets: 24 images to train, 6 to test"
    assert first[1] == "20% of each class, chosen by file names, are to test"
    assert first[2].startswith("pictures became 10x10 (--image-size; crop: scaled ")
    recorded = json.loads(pathlib.Path("run/config.json").read_text())
    chosen = {"image_size": 10, "resize": "crop", "test_share": 0.2}
    assert chosen.items() <= recorded.items()
    about = weight_files.read_about(pathlib.Path("run/last.npz"))
    assert about.class_names == ("cat", "dog", "elk")
    assert about.resize == "crop"

    cli.main(["evaluate", "run"])
    printed = capsys.readouterr().out
    assert "top-5" not in printed  # of three classes
    tests = photos.load(pets).test_labels
    source = photos.list_folder(pathlib.Path(pets), pictures.Options())
    paths = [f"pets/{name}" for name in source.parts["test"].names]
    found = inference.load("run/last.npz").predict(paths)
    accuracy = (found.labels == tests).mean()
    assert printed.startswith(f"test accuracy {accuracy:.2%}, loss ")
    assert set(found.names) <= {"cat", "dog", "elk"}


def test_the_chosen_network_is_said_and_recorded(pets, monkeypatch):
    config = configs.TrainConfig(**_settings(pets, run_dir="run", image_size=8))
    assert config.model is None
    run = setup.set_up(config)
    run.lock.release()
    assert run.config.model == run.task.network.model == "DigitsNet"
    assert run.dataset.notes[-1] == "DigitsNet was chosen for 8x8 images (--model)"
    recorded = run_folder.read_config(run.folder, configs.TrainConfig)
    assert recorded == run.config
    assert recorded.image_size == 8
    # What was chosen once stays, also when it is not given again.
    monkeypatch.setattr(runs, "go_on", lambda plan, seed, folder: plan.config)
    assert setup.resume(config).model == "DigitsNet"
    again = dataclasses.replace(config, image_size=None)
    assert setup.resume(again).image_size == 8
    other = dataclasses.replace(config, model="BinaryNet")
    with pytest.raises(ValueError, match="holds a run with model='DigitsNet', not 'B"):
        setup.resume(other)


@pytest.mark.parametrize(
    ("size", "name"), [(16, "DigitsNet"), (17, "BinaryNet"), (72, "BiRealResNet18")]
)
def test_networks_by_size(pets, size, name):
    config = configs.TrainConfig(**_settings(pets, image_size=size))
    dataset = setup.load(config)
    assert setup.settle(config, dataset).model == name
    assert f"{name} was chosen for {size}x{size} images" in dataset.notes[-1]


def test_a_network_that_does_not_fit_is_warned_of(pets):
    settings = _settings(pets, image_size=96, model="DigitsNet")
    notes = setup.load(configs.TrainConfig(**settings)).notes
    assert "DigitsNet is for images up to 16x16; at 96x96 its dense layer" in notes[-1]


def test_comparisons_and_sweeps_record_the_network(pets):
    settings = _settings(pets, image_size=8)
    config = configs.CompareConfig(**settings, optimizers=("sgd", "bop"), seeds=1)
    comparison = compare.set_up(config)
    comparison.lock.release()
    assert str(comparison.config.folder) == "runs/compare-pets-DigitsNet"
    assert comparison.todo[0][0].model == "DigitsNet"
    prepared = sweep.set_up(configs.SweepConfig(**settings, threshold=(0.0, 1e-7)))
    prepared.lock.release()
    folder = pathlib.Path("runs/sweep-pets-DigitsNet-sgdat")
    recorded = json.loads((folder / "sweep.json").read_text())
    assert (recorded["model"], recorded["image_size"]) == ("DigitsNet", 8)
    sweep.set_up(configs.SweepConfig(**settings, threshold=(0.0, 1e-7))).lock.release()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--dataset pets", "For the folder of that name write pets/"),
        ("--dataset pets/ --image-size 7", "image_size must be at least 8, got 7"),
        ("--dataset pets/ --test-share 1", "test_share must be in (0, 1), got 1.0"),
        ("--dataset pets/ --resize pad", "unknown resize 'pad'"),
        ("--dataset digits --image-size 9", "image_size is for photos, which digits"),
        ("--dataset hf:none", "none"),
    ],
)
def test_refused(pets, words, named, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", *words.split()])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_data_commands_take_photos(pets, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cli.main(["data", "info", pets, "--image-size", "12", "--test-share", "0.5"])
    output = capsys.readouterr().out
    assert "pets: 3 classes" in output
    assert output.split().count("12x12x3") == 2
    assert "50% of each class, chosen by file names, are to test" in output
    cli.main(["data", "show", pets, "--out", "sheet.png"])
    with Image.open("sheet.png", formats=["PNG"]) as image:
        assert image.size[0] > 1000
