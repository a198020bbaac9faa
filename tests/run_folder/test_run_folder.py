import contextlib
import dataclasses
import json
import threading

import pytest

from sgdat_jax import run_folder
from sgdat_jax.experiments import configs

_CONFIG = configs.TrainConfig(
    learning_rate=1 / 3, momentum=0.9, reset_flips_every_epoch=True, seed=7
)


_LINE = {
    "epoch": 1,
    "train_loss": 1 / 3,
    "train_accuracy": 0.5,
    "test_loss": 1,
    "test_accuracy": 0.25,
}
_RESULT = {
    "test_accuracy": 0.25,
    "best_test_accuracy": 0.5,
    "best_epoch": 1,
    "epochs": 2,
    "seconds": 3.5,
    "seed": 0,
    "device": "cpu",
}


def test_round_trips(tmp_path):
    folder = tmp_path / "a" / "b"
    run_folder.create(folder, _CONFIG)
    assert {file.name for file in folder.iterdir()} == {"config.json", "lock"}
    assert run_folder.read_config(folder, configs.TrainConfig) == _CONFIG
    lines = [_LINE | {"more": {"x": 0.0}}, _LINE | {"epoch": 2, "train_loss": 2.0}]
    times = {"seconds": 0.5, "images_per_second": 1e3}
    for line in lines:
        run_folder.append_epoch(folder, line, {"epoch": line["epoch"]} | times)
    assert run_folder.read_metrics(folder) == [line | times for line in lines]
    run_folder.write_epochs(folder, lines[:1], [])
    assert run_folder.read_metrics(folder) == lines[:1]
    result = _RESULT | {"test_accuracy": 0.1 + 0.2}
    run_folder.write_result(folder, result)
    assert run_folder.read_result(folder) == result
    names = sorted(file.name for file in folder.iterdir())
    files = ["config.json", "lock", "metrics.jsonl", "result.json", "times.jsonl"]
    assert names == files


@pytest.mark.parametrize("name", ["sweep[1]", "what?", "*"])
def test_path_that_orbax_takes_for_a_pattern(tmp_path, name):
    with pytest.raises(ValueError, match="run_dir must have none of") as caught:
        run_folder.create(tmp_path / name, _CONFIG)
    assert str(tmp_path / name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_empty_folder_is_taken(tmp_path):
    run_folder.create(tmp_path, _CONFIG)
    assert run_folder.read_config(tmp_path, configs.TrainConfig) == _CONFIG


@pytest.mark.parametrize("held", ["config.json", "notes.txt"])
def test_folder_that_holds_something_is_left_alone(tmp_path, held):
    (tmp_path / held).write_text("precious")
    kind = "a run" if held == "config.json" else "other files"
    with pytest.raises(ValueError, match=f"run_dir must be new.* holds {kind}"):
        run_folder.create(tmp_path, _CONFIG)
    assert [file.name for file in tmp_path.iterdir()] == [held]
    assert (tmp_path / held).read_text() == "precious"


@pytest.mark.parametrize("path", ["file", "file/below", "new/" + 300 * "x"])
def test_path_that_cannot_be_written(tmp_path, path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="run_dir must be a folder that can") as caught:
        run_folder.create(tmp_path / path, _CONFIG)
    assert str(tmp_path / path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


_READERS = {
    "config.json": lambda path: run_folder.read_config(path, configs.TrainConfig),
    "metrics.jsonl": run_folder.read_metrics,
    "result.json": run_folder.read_result,
}


@pytest.mark.parametrize("name", _READERS)
@pytest.mark.parametrize(
    "content",
    [
        *(None, b"", b"{", b"[1]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000),
        b'{"seed": 1, "epoch": 1, "seed": 2}',
    ],
    ids=["missing", "empty", "cut", "list", "null", "text", "bytes", "deep", "twice"],
)
def test_damaged_file(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        _READERS[name](tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_name_too_long_for_a_file(tmp_path, name):
    with pytest.raises(ValueError, match="is not the folder of a"):
        _READERS[name](tmp_path / (300 * "x"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"colour": 1}', "colour"),
        ('{"epochs": "2"}', "epochs"),
        ('{"epochs": 0}', "epochs"),
        ('{"seed": 0.5}', "seed"),
        ('{"momentum": 1}', "momentum"),
        ('{"format": 2}', "of another version of sgdat-jax"),
        ('{"format": "1"}', "of another version of sgdat-jax"),
        ('{"optimizer": "sgdta"}', "sgdat"),
    ],
)
def test_config_that_is_none(tmp_path, content, named):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"config\.json (is not a run's config|has format)"
    ) as caught:
        run_folder.read_config(tmp_path, configs.TrainConfig)
    assert str(tmp_path) in str(caught.value)
    assert named in str(caught.value)


_FREE = {
    *("data_dir", "run_dir", "stream_above", "tensorboard", "devices", "sharded"),
    *("save_every_minutes", "save_every_steps", "keep_states"),
    *("plugin", "label", "allow_changed_data"),
}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(_CONFIG)])
def test_only_what_leaves_no_trace_may_change(tmp_path, field):
    other = dataclasses.replace(_CONFIG)
    object.__setattr__(other, field, "other")
    refused = contextlib.nullcontext()
    if field not in _FREE:
        message = rf"holds a run with {field}=.*, not 'other'; choose another run_dir"
        refused = pytest.raises(ValueError, match=message)
    with refused:
        run_folder.check_same(tmp_path, _CONFIG, other)
    run_folder.check_same(tmp_path, _CONFIG, other, free=[field])


def test_damaged_line_of_metrics(tmp_path):
    times = {"epoch": 1, "seconds": 1.0, "images_per_second": 2.0}
    run_folder.create(tmp_path, _CONFIG)
    run_folder.append_epoch(tmp_path, _LINE, times)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": ')
    assert run_folder.read_metrics(tmp_path) == [_LINE | times]  # torn by a full disk
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl cannot be read"):
        run_folder.read_metrics(tmp_path)


@pytest.mark.parametrize("epochs", [(1, 1), (2,), (1, 3), (2, 1)])
def test_metrics_with_other_epochs_than_those_that_ended(tmp_path, epochs):
    lines = [json.dumps(_LINE | {"epoch": epoch}) for epoch in epochs]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged: line . must be"):
        run_folder.read_metrics(tmp_path)


def test_only_one_may_write(tmp_path):
    held = run_folder.create(tmp_path, _CONFIG)
    with pytest.raises(ValueError, match=f"{tmp_path} is in use by another process"):
        run_folder.lock(tmp_path)
    held.release()
    run_folder.lock(tmp_path).release()


def test_another_thread_may_free_a_lock(tmp_path):
    held = run_folder.create(tmp_path, _CONFIG)
    freeing = threading.Thread(target=held.release)
    freeing.start()
    freeing.join()
    run_folder.lock(tmp_path).release()


def test_folder_that_was_left_at_once_is_taken(tmp_path):
    run_folder.lock(tmp_path).release()
    (tmp_path / "config.partial").write_text('{"format"')
    run_folder.create(tmp_path, _CONFIG).release()
    assert not (tmp_path / "config.partial").exists()
    assert run_folder.read_config(tmp_path, configs.TrainConfig) == _CONFIG
