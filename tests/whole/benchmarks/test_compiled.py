import json

import pytest

from benchmarks import chips, compiled

CHIP = chips.Chip(100.0, 200.0, 10.0, 2.0, 1e9, {4: "2x2"})


def test_computed_seconds_are_those_of_the_tightest_bound():
    found = compiled.computed(CHIP, {"bf16": 300.0, "s8": 200.0}, hbm=50.0, sent=3.0)
    assert found == {"operations": 4.0, "bytes": 5.0, "links": 1.5, "all": 5.0}
    assert compiled.computed(CHIP, {}, hbm=0.0, sent=0.0)["all"] == 0


def row(**changes):
    return {
        "chip": "v5e",
        "devices": 1,
        "state": "sharded",
        "model": "BinaryNet",
        "dtype": "bfloat16",
        "images": 8,
        "state_and_batch_bytes": 2e6,
        "temporary_bytes": 3e6,
        "hbm_bytes": 4e9,
        "operations": {"bf16": 5e12},
        "sent_bytes": {},
        "computed_seconds": compiled.computed(chips.CHIPS["v5e"], {}, 4e9, 0),
    } | changes


def test_steps_table():
    split = row(devices=4, sent_bytes={"all-gather u32": 6e6})
    *_, alone, many = compiled.steps_table([split, row()]).splitlines()
    assert alone.split(" | ")[1:7] == ["1 x v5e", "2.0", "3", "4.00", "5.00", ""]
    assert many.split(" | ")[1::5] == ["4 x v5e sharded", "6.0"]
    assert alone.endswith(f"0.00 / {1e3 * 4e9 / 819e9:.2f} / 0.00 |")


def test_optimizers_table_has_a_line_where_all_chips_are_known():
    def measured(chip, name, bytes_per_weight):
        return {
            "chip": chip,
            "optimizer": name,
            "dtype": "float32",
            "bytes_per_weight": bytes_per_weight,
            "hbm_bytes": 1e6 * bytes_per_weight,
            "computed_seconds": {"all": 1e-6},
        }

    rows = [
        measured(chip, name, size)
        for chip in chips.CHIPS
        for name, size in (("optax.adam", 28.0), ("sgdat", 21.0))
    ]
    lines = compiled.optimizers_table([*rows, measured("v5e", "bop", 1.0)]).splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("| `sgdat` | float32 | 21.0 | 0.75 | 1 |")


def test_a_row_takes_the_place_of_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.importlib.metadata, "version", lambda name: "1.2")
    monkeypatch.setattr(compiled.timing, "circumstances", dict)
    file = tmp_path / "steps.json"
    for devices, size in ((1, 1.0), (4, 2.0), (1, 3.0)):
        key = {"chip": "v5e", "devices": devices}
        assert compiled.is_known(file, key) == (size == 3.0)
        compiled.keep(file, key, {"hbm_bytes": size})
    kept = json.loads(file.read_text())["rows"]
    assert [(one["devices"], one["hbm_bytes"]) for one in kept] == [(4, 2.0), (1, 3.0)]
    assert {one["libtpu"] for one in kept} == {"1.2"}


@pytest.mark.tpu_compile
def test_an_optimizer_on_a_chip():
    pytest.importorskip("libtpu")
    found = compiled.optimizer("v6e", "sgdat compact", "float32")
    assert found["bytes_per_weight"] == pytest.approx(20, rel=0.01)
    assert found["temporary_bytes"] == 0 and found["sent_bytes"] == {}
    seconds = found["computed_seconds"]
    assert seconds["all"] == seconds["bytes"] == found["hbm_bytes"] / 1.6e12
