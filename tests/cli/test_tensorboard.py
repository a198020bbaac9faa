import struct

import pytest

import shared_runs
from sgdat_jax import cli, run_folder
from sgdat_jax.cli import tensorboard
from sgdat_jax.training import loop


def _records(data):
    """The records of an event file: length, checksum, bytes, checksum each."""
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + size]
        data = data[16 + size :]


def test_event_file_holds_the_metrics(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    lines = run_folder.read_metrics(shared_runs.finished().folder)
    with tensorboard.EventFile(tmp_path) as events:
        both = loop.Watchers([loop.Watcher(), events])
        for line in lines:
            both.epoch_ended(line)
    (file,) = tmp_path.iterdir()
    read = {}
    for record in _records(file.read_bytes()):
        event = event_pb2.Event.FromString(record)
        for value in event.summary.value:
            read[event.step, value.tag] = value.simple_value
    for line in lines:
        epoch = line["epoch"]
        for name in ("train_loss", "test_accuracy", "flip_ratio", "images_per_second"):
            assert read[epoch, name] == pytest.approx(line[name], rel=1e-6)
        for layer, ratio in line["flip_ratio_per_layer"].items():
            tag = f"flip_ratio_per_layer/{layer}"
            assert read[epoch, tag] == pytest.approx(ratio, rel=1e-6)
    assert {epoch for epoch, _ in read} == {1, 2}


def test_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--tensorboard", "--run-dir", str(folder)])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "sgdat-jax: error: tensorboardX is not installed; tensorboard needs: "
        "pip install 'sgdat-jax[tensorboard]'\n"
    )
    assert not folder.exists()
