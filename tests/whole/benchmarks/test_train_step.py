import importlib.util
import json

import pytest

from benchmarks import train_step


def test_steps_are_timed_beside_each_other(tmp_path, monkeypatch):
    variants = {"sgdat": {}, "full precision": {"full_precision": ("*",)}}
    monkeypatch.setattr(train_step, "VARIANTS", variants)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name != "torch" and find(name)
    )
    monkeypatch.setattr(train_step, "matmul_rate", lambda dtype: 1e9)
    monkeypatch.setattr(train_step, "MODELS", ("DigitsNet",))
    monkeypatch.setattr(train_step, "SHAPE", (8, 8, 1))
    train_step.main(["--batch", "8", "--rounds", "3", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    assert file.name == "cpu-float32-DigitsNet-width1.json"
    result = json.loads(file.read_text())
    found = [(row["batch"], row["step"]) for row in result["rows"]]
    assert found == [(8, name) for name in variants]
    for row in result["rows"]:
        assert row["rounds"] == 3
        took = row["seconds"]
        assert 0 < took["low"] <= took["median"] <= took["high"]
        assert row["images_per_second"] == pytest.approx(row["batch"] / took["median"])
        if row["step"] == "sgdat":
            assert row["over_sgdat"]["median"] == 1
    assert result["vector_bits"] in (128, 256, 512, None)
