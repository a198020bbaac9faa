import json

import pytest

import sgdat_jax as sj
from benchmarks import gradients
from sgdat_jax.lookups import native

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.skipif(not native._can(), reason="needs AVX2 and a C++ compiler")
def test_both_gradients_are_measured_beside_those_of_xla(tmp_path, capsys):
    words = ["--cases", "8x8x128", "--batch", "2", "--rounds", "5"]
    try:
        gradients.main([*words, "--out", str(tmp_path)])
    finally:
        sj.look_up_gradients(False)
    assert "8x8x128" in capsys.readouterr().out
    rows = json.loads((tmp_path / "float32.json").read_text())["rows"]
    assert [row["gradient"] for row in rows] == ["kernel", "inputs"]
    assert all(row["over_xla"]["median"] > 0 for row in rows)
