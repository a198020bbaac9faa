import json

import pytest

from benchmarks import products

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_every_product_is_measured_beside_floats(tmp_path, capsys):
    names = ["3x3, 24 channels", "dense, 2048 to 256"]
    words = ["--products", *names, "--batch", "2", "--rounds", "5"]
    products.main([*words, "--out", str(tmp_path)])
    assert names[0] in capsys.readouterr().out
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert [row["product"] for row in rows] == [names[0]] * 3 + [names[1]] * 3
    assert {row["program"] for row in rows} == {
        products.FLOATS,
        products.BITS,
        products.PACKED,
    }
    assert all(row["over_floats"]["median"] > 0 for row in rows)
