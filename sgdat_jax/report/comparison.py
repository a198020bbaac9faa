"""The table of a comparison: on the terminal, as Markdown, CSV and JSON."""

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich import table as rich_table

from sgdat_jax.report import comparison_plots
from sgdat_jax.report import runs as runs_lib

SELECTION = (
    "Top-1 accuracy on the test set, mean ± standard deviation over seeds; best epoch: "
    "chosen on the test set, as in the paper."
)
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
      A dictionary per group: ``label``, ``runs``, ``seeds``, ``epochs``, and ``mean``
      and ``std`` of each measure; ``std`` is None for a single run, both are None for
      flips where nothing is binary. The seconds are those of training, in the median
      epoch, so that compiling does not count.
    """
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "label": group.label,
            "runs": len(group.runs),
            "seeds": [run.config.seed for run in group.runs],
            "epochs": group.runs[0].config.epochs,
        }
        results = [
            {**run.result, "seconds_per_epoch": np.median(seconds)}
            for run, seconds in zip(group.runs, group.values("seconds"), strict=True)
        ]
        for key, *_ in _MEASURES.values():
            row[key] = spread(results, key)
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
    return markdown([headers, rule, *map(_cells, rows)])


def write_comparison(
    folder: pathlib.Path, groups: Sequence[runs_lib.Group]
) -> list[pathlib.Path]:
    """Writes table and plots of a comparison and returns the paths of the files.

    Args:
      folder: where they go; made if it is not there.
      groups: what `group_runs` returns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = compare_runs(groups)
    data = {
        "dataset": groups[0].runs[0].config.dataset,
        "selection": SELECTION,
        "devices": sorted({run.result["device"] for g in groups for run in g.runs}),
        "rows": rows,
    }
    text, table, raw = (folder / f"comparison.{kind}" for kind in ("md", "csv", "json"))
    text.write_text(f"{comparison_markdown(rows)}\n{SELECTION}\n")
    raw.write_text(json.dumps(data, indent=2) + "\n")
    with table.open("w", newline="") as file:
        flat = [_flat(row) for row in rows]
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)
    figures = comparison_plots.plot_comparison(groups)
    for name, fig in figures.items():
        fig.savefig(folder / f"{name}.png", dpi=150)
    return [text, table, raw, *(folder / f"{name}.png" for name in figures)]


def spread(results: Sequence[Mapping[str, Any]], key: str) -> dict[str, float | None]:
    """Returns mean and standard deviation of an entry; the latter None for one.

    Both are None where a result has no such entry, or there is no result.
    """
    if not results or any(key not in result for result in results):
        return {"mean": None, "std": None}
    values = np.array([result[key] for result in results], np.float64)
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "std": std}


def format_spread(
    values: Mapping[str, float | None], form: str, scale: float = 1.0
) -> str:
    """Returns what `spread` returns as text, empty without a mean."""
    mean, std = values["mean"], values["std"]
    if mean is None:
        return ""
    plus_minus = "" if std is None else f" ± {scale * std:{form}}"
    return f"{scale * mean:{form}}{plus_minus}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells, the second of them the rule, as a Markdown table."""
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n"
        for line in lines
    )


def _headers() -> list[str]:
    return ["optimizer", "runs", "epochs", *_MEASURES]


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [row["label"], str(row["runs"]), str(row["epochs"])]
    for key, scale, form in _MEASURES.values():
        cells.append(format_spread(row[key], form, scale))
    return cells


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{name}": number for name, number in value.items()}
        else:
            flat[key] = " ".join(map(str, value)) if key == "seeds" else value
    return flat
