"""Prepared sets whose files name classes that would be imported, and hence run."""

import dataclasses
import json
import shutil
import sys

import pytest
import tensorflow_datasets as tfds

import small_sets
from sgdat_jax import cli
from sgdat_jax.data import sources
from sgdat_jax.data.prepared_sets import feature_classes, prepared
from sgdat_jax.experiments import configs

_FEATURES = "tensorflow_datasets.core.features"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A genuine set under a name that no code of tensorflow-datasets has."""
    folder = tmp_path_factory.mktemp("sets")
    root = small_sets.tiny_imagenet(tmp_path_factory.mktemp("published"))
    prepared.prepare("tiny_imagenet", folder, root)
    place = folder / "pictures" / "1.0.0"
    shutil.move(folder / "tiny_imagenet", folder / "pictures")
    for file in place.iterdir():
        file.rename(file.with_name(file.name.replace("tiny_imagenet", "pictures")))
    info = place / "dataset_info.json"
    info.write_text(info.read_text().replace("tiny_imagenet", "pictures"))
    return folder


@pytest.fixture
def sets(made, tmp_path):
    return shutil.copytree(made, tmp_path / "sets")


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported; returns whether it was."""
    folder, trace = tmp_path / "modules", tmp_path / "was imported"
    folder.mkdir()
    for name in ("payload", "tensorflow_datasets_payload"):
        (folder / f"{name}.py").write_text(f"open({str(trace)!r}, 'w').close()")
    monkeypatch.syspath_prepend(folder)
    yield trace.exists
    sys.modules.pop("payload", None)


def _change(file, change):
    values = json.loads(file.read_text())
    values = change(values) or values
    file.write_text(json.dumps(values))


def _name(values):
    values["pythonClassName"] = "payload.X"


def _snake(values):
    values["python_class_name"] = values.pop("pythonClassName") and "payload.X"


def _nested(values):
    _name(values["featuresDict"]["features"]["label"])


def _in_a_sequence(values):
    inner = {"pythonClassName": "payload.X", "text": {}}
    values["featuresDict"]["features"]["more"] = {
        "pythonClassName": f"{_FEATURES}.sequence_feature.Sequence",
        "sequence": {"feature": inner},
    }


def _legacy(values):
    return {"type": "payload.X", "content": {}}


def _legacy_nested(values):
    inner = {"image": {"type": "payload.X", "content": {}}}
    own = f"{_FEATURES}.features_dict.FeaturesDict"
    return {"type": own, "content": inner}


def _in_text(values):
    own = f"{_FEATURES}.features_dict.FeaturesDict"
    inner = {"image": {"type": "payload.X", "content": {}}}
    return {"pythonClassName": own, "jsonFeature": {"json": json.dumps(inner)}}


_CHANGES = [_name, _snake, _nested, _in_a_sequence, _legacy, _legacy_nested, _in_text]


def test_a_genuine_set_is_opened(sets):
    assert sources.load("tfds:pictures", sets).num_classes == 3
    assert sources.load("tfds:Pictures", sets).num_classes == 3


@pytest.mark.parametrize("change", _CHANGES)
def test_the_trap_works(sets, payload, change):
    _change(sets / "pictures" / "1.0.0" / "features.json", change)
    with pytest.raises(Exception, match=r".*"):
        tfds.builder("pictures", data_dir=sets)
    assert payload()


@pytest.mark.parametrize("change", _CHANGES)
def test_classes_of_others_are_refused(sets, payload, change):
    file = sets / "pictures" / "1.0.0" / "features.json"
    _change(file, change)
    with pytest.raises(ValueError) as caught:
        sources.load("tfds:pictures", sets)
    assert str(caught.value) == (
        f"{file} must name feature classes of tensorflow-datasets, got 'payload.X': "
        "nothing else is imported."
    )
    assert not payload()


@pytest.mark.parametrize(
    "name",
    [
        "tensorflow_datasets_payload.X",
        "tensorflow_datasets.payload.X",
        "tensorflow_datasets.scripts.cli.main.main",
        "sgdat_jax.cli.main",
        "payload",
        "",
    ],
)
@pytest.mark.parametrize("file_name", ["features.json", "dataset_info.json"])
def test_names_that_are_none_of_a_feature(sets, payload, name, file_name):
    file = sets / "pictures" / "1.0.0" / file_name
    _change(file, lambda values: values.update(pythonClassName=name))
    with pytest.raises(ValueError, match=f"{file_name} must name feature cl") as caught:
        sources.load("tfds:pictures", sets)
    assert repr(name) in str(caught.value)
    assert not payload()


@pytest.mark.parametrize("folder", ["2.0.0", "a_config/1.0.0", ".hidden/1.0.0"])
def test_every_version_and_config_is_looked_at(sets, payload, folder):
    other = sets / "pictures" / folder
    other.parent.mkdir(exist_ok=True)
    outside = shutil.copytree(sets / "pictures" / "1.0.0", sets.parent / "outside")
    other.symlink_to(outside)
    _change(outside / "features.json", _name)
    with pytest.raises(ValueError, match=r"got 'payload\.X'"):
        sources.load("tfds:pictures", sets)
    assert not payload()


def test_sets_that_tensorflow_datasets_knows_are_looked_at(sets, payload):
    shutil.move(sets / "pictures", sets / "mnist")
    _change(sets / "mnist" / "1.0.0" / "features.json", _name)
    for name in ("mnist", "tfds:mnist", "tfds:mnist:a_config"):
        with pytest.raises(ValueError, match=r"got 'payload\.X'"):
            sources.load(name, sets)
        with pytest.raises(ValueError, match=r"got 'payload\.X'"):
            prepared.prepare(name, sets)
    assert not payload()


@pytest.mark.parametrize(
    "name",
    ["pictures:..", "pictures:.", "pictures:config=..:sets", "..", "a:b:c", "a,b"],
)
def test_names_that_lead_elsewhere(sets, payload, name):
    (sets / "1.0.0").mkdir()
    (sets / "1.0.0" / "features.json").write_text('{"pythonClassName": "payload.X"}')
    with pytest.raises(ValueError, match=r"it must be tfds:NAME\[:CONFIG\]\."):
        sources.load(f"tfds:{name}", sets)
    assert not payload()


def test_deep_and_damaged_files(sets, payload):
    file = sets / "pictures" / "1.0.0" / "features.json"
    for content in (b"\xff", b"{", b"[" * 100_000, b""):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"tfds:pictures (cannot be opened|is not)"
        ):
            sources.load("tfds:pictures", sets)
    deep = {"pythonClassName": "payload.X"}
    for _ in range(400):
        deep = {"a": [deep]}
    file.write_text(json.dumps(deep))
    with pytest.raises(ValueError, match=r"got 'payload\.X'"):
        feature_classes.check("pictures", data_dir=sets)
    assert not payload()


def test_evaluating_a_run_of_others_imports_nothing(sets, tmp_path, payload, capsys):
    _change(sets / "pictures" / "1.0.0" / "features.json", _name)
    run = tmp_path / "run"
    run.mkdir()
    crafted = configs.TrainConfig(dataset="tfds:pictures", data_dir=str(sets))
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(crafted)))
    result = {"best_epoch": 1, "epochs": 1, "seconds": 1, "seed": 0, "device": "cpu"}
    result |= {"test_accuracy": 0.5, "best_test_accuracy": 0.5}
    (run / "result.json").write_text(json.dumps(result))
    for words in (["evaluate"], ["train", "--resume"]):
        with pytest.raises(SystemExit) as caught:
            cli.main([*words, str(run)])
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert "features.json must name feature classes" in error
        assert error.count("\n") == 1
    assert not payload()
