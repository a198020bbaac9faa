import json

import jax
import pytest

import small_runs
from benchmarks import scaling

MEASURED = scaling.Measured(seconds=0.1, temporary_bytes=7)


@pytest.fixture(scope="module")
def state():
    return jax.eval_shape(small_runs.task_and_init(small_runs.alone())[1], 0)


def test_row_by_hand(state):
    found = scaling.row(state, 8, MEASURED, bytes_per_second=1e6)
    vectors = 64 + 2 * 64 + 2 * 128
    weights = 64 * 64 + 64 * 128 + 128 * 10 + vectors  # that 8 divides
    summed = 2 * 7 / 8 * 4 * (weights + 10)
    bias = 4 * 10 / 2  # in two parts
    sent = {"copied": 0, "split, float32": 7 / 8 * 4 * weights + bias}
    sent["split, bits"] = sent["split, float32"] - 7 / 8 * 64 * 128 * (4 - 1 / 8)
    assert found["gradients_sent_bytes"] == summed
    for name, count in sent.items():
        assert found["weights_sent_bytes"][name] == count
        seconds = 0.1 + (summed + count) / 1e6
        assert found["seconds"][name] == pytest.approx(seconds)
        assert found["efficiency"][name] == pytest.approx(0.1 / seconds)
    copied, split = found["state_bytes"].values()
    assert 7 < copied / split < 8


def test_memory_falls_as_far_as_arrays_divide(state):
    rows = [scaling.row(state, n, MEASURED, 1e9) for n in scaling.DEVICES]
    split = [row["state_bytes"]["split"] for row in rows]
    assert split == sorted(split, reverse=True)
    assert len({row["state_bytes"]["copied"] for row in rows}) == 1
    averages = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.stats))
    assert averages < split[-1] < averages + 300


def test_table_has_a_line_per_row(state):
    rows = [scaling.row(state, n, MEASURED, 1e9) for n in scaling.DEVICES]
    lines = scaling.table(rows).splitlines()
    assert len(lines) == len(scaling.DEVICES) + 2
    assert (scaling.DEVICES[0], scaling.DEVICES[-1]) == (8, 4096)
    columns = {line.count("|") for line in lines}
    assert columns == {10}
    assert lines[-1].startswith("| 4,096 | ")


@pytest.mark.slow
def test_command(tmp_path, capsys):
    words = ["--model", "DigitsNet", "--batch", "8", "--rounds", "1", "--out"]
    scaling.main([*words, str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "scaling.md").read_text() == f"# Many devices\n\n{printed[:-1]}"
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["devices"] for row in result["rows"]] == list(scaling.DEVICES)
    assert result["measured"]["seconds"] > 0
    assert result["measured"]["temporary_bytes"] > 0
    assert "measured" in printed and "computed" in printed and "assumed" in printed
