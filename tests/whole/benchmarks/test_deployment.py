import json

import numpy as np
import pytest

from benchmarks import deployed, deployment


def test_a_network_is_measured_from_files_written_before(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    words = ["--models", "DigitsNet", "--widths", "0.1", "--rounds", "5"]
    words += ["--programs", deployed.OURS, deployed.RIVAL, "--out", str(tmp_path)]
    words += ["--files", str(tmp_path / "files")]
    deployment.main([*words, "--prepare"])
    (folder,) = (tmp_path / "files").iterdir()
    written = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {"net.npz", "net.onnx"} < set(written)
    assert list(tmp_path.glob("*.json")) == []
    deployment.main(words)
    assert written == {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert deployed.OURS in capsys.readouterr().out
    (file,) = tmp_path.glob("*.json")
    result = json.loads(file.read_text())
    assert result["threads"] == deployed.threads()
    ours, rival = result["rows"]
    assert ours["over_ours"]["median"] == rival["over_onnxruntime"]["median"] == 1
    assert ours["file_bytes"] == (folder / "net.npz").stat().st_size
    assert ours["over_float32_bytes"] < 1
    assert 0 < ours["latency"]["median"] <= ours["latency_99"]
    assert ours["images_per_second"] > 0
    capsys.readouterr()
    deployment.main(["--tables", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(lines[2]) == 3  # heads of three tables
    (line,) = (line for line in lines if f"{1e3 * ours['latency_99']:.3f}" in line)
    assert line.startswith("| DigitsNet | 0.1 | this processor |")


def test_files_are_only_prepared_to_be_kept(capsys):
    with pytest.raises(SystemExit):
        deployment.parse(["--prepare"])
    assert "--prepare needs --files" in capsys.readouterr().err


def test_onnxruntime_takes_the_processor_as_it_is():
    chosen = deployment.parse(["--processor", "x86-64-v3"]).programs
    assert set(deployed.FORMS) - set(chosen) == {deployed.RIVAL}


def test_a_file_that_predicts_otherwise_is_not_measured(tmp_path, monkeypatch):
    deployed.write_files("DigitsNet", 0.1, tmp_path, [deployed.OURS], None)
    wrong = deployed.FORMS[deployed.OURS]._replace(
        read=lambda file: lambda images: lambda: np.eye(10)[[0] * len(images)]
    )
    monkeypatch.setitem(deployed.FORMS, "wrong", wrong)
    with pytest.raises(ValueError, match="another class"):
        deployed.read_programs(tmp_path, ["wrong"])
