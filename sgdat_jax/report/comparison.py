"""The table of a comparison: on the terminal, as Markdown, CSV and JSON."""

import pathlib
from collections.abc import Sequence
from typing import Any

from rich import box
from rich import table as rich_table

from sgdat_jax import files
from sgdat_jax.report import comparison_plots, figures, tables
from sgdat_jax.report import runs as runs_lib
from sgdat_jax.training import run_folder

_MEASURES = {
    "last epoch (%)": ("test_accuracy", 100, ".2f"),
    "best epoch (%)": ("best_test_accuracy", 100, ".2f"),
    "flips per weight": ("flips_per_weight", 1, ".2f"),
    "s per epoch": ("seconds_per_epoch", 1, ".2f"),
}


def compare_runs(groups: Sequence[runs_lib.Group]) -> list[dict[str, Any]]:
    """Returns the rows of a comparison.

    Args:
      groups: what `group_runs` returns.

    Returns:
      A dictionary per group: ``label``, ``runs`` and how many of them ``diverged``,
      ``seeds``, ``epochs``, and of each measure ``mean`` and ``std`` over the other
      runs; ``std`` is None for a single run, both are None where all diverged, and for
      flips where nothing is binary. The seconds are those of training, in the median
      epoch.
    """
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "label": group.label,
            "runs": len(group.runs) + len(group.diverged),
            "diverged": len(group.diverged),
            "seeds": sorted(r.config.seed for r in (*group.runs, *group.diverged)),
            "epochs": group.config.epochs,
        }
        results = [
            run.result | {"seconds_per_epoch": run_folder.seconds_per_epoch(run.lines)}
            for run in group.runs
        ]
        for key, *_ in _MEASURES.values():
            row[key] = tables.spread(results, key)
        rows.append(row)
    return rows


def comparison_table(rows: Sequence[dict[str, Any]]) -> rich_table.Table:
    """Returns the table of a comparison for the terminal.

    Args:
      rows: what `compare_runs` returns.
    """
    table = rich_table.Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for index, header in enumerate(_headers()):
        table.add_column(header, justify="right" if index else "left")
    for row in rows:
        table.add_row(*(cell.replace(" ± ", "±") for cell in _cells(row)))
    return table


def comparison_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table of a comparison as Markdown.

    Args:
      rows: what `compare_runs` returns.
    """
    headers = _headers()
    rule = ["---", *("---:" for _ in headers[1:])]
    return tables.markdown([headers, rule, *map(_cells, rows)])


def write_comparison(
    folder: pathlib.Path, groups: Sequence[runs_lib.Group]
) -> list[pathlib.Path]:
    """Writes table and plots of a comparison and returns the paths of the files.

    Those of an earlier comparison in the folder are replaced, and its other plots are
    removed; other files stay.

    Args:
      folder: where they go; made if it is not there.
      groups: what `group_runs` returns.

    Raises:
      ValueError: if the folder cannot be made.
      OSError: if a file cannot be written.
    """
    files.make([folder], "folder")
    rows = compare_runs(groups)
    data = {
        "dataset": runs_lib.dataset_of(groups[0].config),
        "selection": tables.SELECTION,
        "devices": sorted({run.result["device"] for g in groups for run in g.runs}),
        "rows": rows,
    }
    text, table, raw = (folder / f"comparison.{kind}" for kind in ("md", "csv", "json"))
    pictures = {name: folder / f"{name}.png" for name in comparison_plots.PLOTS}
    plots = comparison_plots.plot_comparison(groups)
    files.write_text(text, f"{comparison_markdown(rows)}\n{tables.SELECTION}\n")
    files.write_json(raw, data)
    tables.write_csv(table, rows)
    for name, picture in pictures.items():
        if name in plots:
            figures.save(plots[name], picture)
        elif files.is_regular(picture):
            files.remove(picture)
    return [text, table, raw, *(pictures[name] for name in plots)]


def _headers() -> list[str]:
    return ["optimizer", "runs", "epochs", *_MEASURES]


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [row["label"], tables.format_runs(row), str(row["epochs"])]
    for key, scale, form in _MEASURES.values():
        cells.append(tables.format_spread(row[key], form, scale))
    return cells
