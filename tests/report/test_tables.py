import csv

from sgdat_jax.report import tables


def test_bars_within_a_cell_are_escaped():
    table = tables.markdown([["a|b", "c"], ["-", ""]])
    assert table == "| a\\|b | c |\n| --- | ---: |\n| - |  |\n"


def test_columns_are_those_of_all_rows(tmp_path):
    rows = [{"label": "a", "seeds": [0, 1]}, {"label": "b", "mean": {"x": 0.5}}]
    tables.write_csv(tmp_path / "rows.csv", rows)
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"label": "a", "seeds": "0 1", "mean_x": ""},
            {"label": "b", "seeds": "", "mean_x": "0.5"},
        ]
