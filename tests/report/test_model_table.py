import io

import pytest
from rich import console

from sgdat_jax import report, summary
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.report import model_table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_summary_table_fits_80_columns():
    rows = setup.summarize(configs.TrainConfig(), sources.digits())
    terminal = console.Console(width=80, file=io.StringIO(), color_system=None)
    terminal.print(report.summary_table(rows))
    text = terminal.file.getvalue()
    assert "…" not in text
    printed = [line.split() for line in text.splitlines()]
    for row in rows:
        assert sum(cells[:2] == [row.name, row.kind] for cells in printed) == 1
    total = summary.total(rows)
    # 241,664 and 4,234 weights; 3,670,016 and 39,424 multiply-accumulates
    (cells,) = (cells for cells in printed if cells[:1] == ["total"])
    assert cells == ["total", "242k", "4.23k", "47.2k", "3.67M", "39.4k"]
    assert total.memory_bytes == 241_664 // 8 + 4 * (4_234 + 20) == 47_224


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "-"),
        (1, "1"),
        (999, "999"),
        (1000, "1k"),
        (9994, "9.99k"),
        (9996, "10k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (1_234_567, "1.23M"),
        (5e12, "5T"),
    ],
)
def test_short_numbers(number, expected):
    assert model_table._short(number) == expected
