"""The tables of a comparison: on the terminal, as Markdown, CSV, LaTeX, JSON, HTML."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import table as rich_table

from sgdat_jax import files, run_folder
from sgdat_jax.report import (
    comparison_plots,
    figures,
    pages,
    run_plots,
    statistics,
    tables,
)
from sgdat_jax.report.runs import Group, dataset_of, subject_of

# Headers, keys of rows, factors and formats; the best epoch's header says who chose it.
_BEST = "best_test_accuracy"
_MEASURES = {
    "last epoch (%)": ("test_accuracy", 100, ".2f"),
    "best epoch (%)": (_BEST, 100, ".2f"),
    "flips per weight": ("flips_per_weight", 1, ".2f"),
    "s per epoch": ("seconds_per_epoch", 1, ".2f"),
}
_NAMES = ("comparison.md", "comparison.tex", "comparison.csv", "differences.csv",
          "comparison.json", "report.html")  # fmt: skip
_RECORD = "comparison.json"
_PLOTS = (*comparison_plots.PLOTS, "learning")


def compare_runs(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Returns the rows of a comparison.

    Args:
      groups: what `group_runs` returns.

    Returns:
      A dictionary per group: ``label``, ``runs`` and how many of them ``diverged``,
      ``seeds``, ``epochs``, by what the best epoch was ``selected_by``, ``"test"`` or
      ``"validation"``, and of each measure ``mean`` and ``std`` over the other runs;
      ``std`` is None for a single run, both are None where all diverged, and for flips
      where nothing is binary. The seconds are those of training in the median epoch
      after the first, which holds the compiling.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> row = report.compare_runs(groups)[1]
      >>> row["label"], row["test_accuracy"]
      ('Bop', {'mean': 0.8714, 'std': None})
    """
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "label": group.label,
            "runs": len(group.runs) + len(group.diverged),
            "diverged": len(group.diverged),
            "seeds": sorted(r.config.seed for r in (*group.runs, *group.diverged)),
            "epochs": group.config.epochs,
            "selected_by": _selected_by(group),
        }
        results = [
            run.result | {"seconds_per_epoch": run_folder.seconds_per_epoch(run.lines)}
            for run in group.runs
        ]
        for key, *_ in _MEASURES.values():
            row[key] = tables.spread(results, key)
        rows.append(row)
    return rows


def _selected_by(group: Group) -> str:
    return "validation" if group.config.validation_share else "test"


def comparison_table(
    rows: Sequence[dict[str, Any]], *, select_on_test: bool = False
) -> rich_table.Table:
    """Returns the table of a comparison for the terminal.

    Args:
      rows: what `compare_runs` returns.
      select_on_test: whether to show best epochs that the test set itself chose.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> table = report.comparison_table(report.compare_runs(groups))
      >>> str(table.columns[0].header)  # rich.print(table) shows it
      'optimizer'
    """
    lines = _cells(rows, select_on_test=select_on_test)
    return tables.terminal(
        [[cell.replace(" ± ", "±") for cell in line] for line in lines]
    )


def comparison_markdown(
    rows: Sequence[dict[str, Any]], *, select_on_test: bool = False
) -> str:
    """Returns the table of a comparison as Markdown.

    Args:
      rows: what `compare_runs` returns.
      select_on_test: as in `comparison_table`.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> text = report.comparison_markdown(report.compare_runs(groups))
      >>> print(text.splitlines()[3])
      | Bop | 1 | 90 | 87.14 | 1.63 | 0.55 |
    """
    return tables.markdown(_cells(rows, select_on_test=select_on_test))


def differences_table(differences: Sequence[dict[str, Any]]) -> rich_table.Table:
    """Returns the table of paired differences for the terminal.

    Args:
      differences: what `paired_differences` returns.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> table = report.differences_table(report.compare_pairs(groups))
      >>> str(table.columns[0].header)  # rich.print(table) shows it
      'optimizer'
    """
    return tables.terminal(_difference_cells(differences))


def differences_markdown(differences: Sequence[dict[str, Any]]) -> str:
    """Returns the table of paired differences as Markdown.

    Args:
      differences: what `paired_differences` returns.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> text = report.differences_markdown(report.compare_pairs(groups))
      >>> print(text.splitlines()[3])
      | Bop | 1 | -1.18 |  |  |  |
    """
    return tables.markdown(_difference_cells(differences))


def check_place(folder: pathlib.Path, option: str) -> None:
    """Raises ValueError if the files of a report would replace those of others.

    Args:
      folder: where a report is to be written; it need not be there.
      option: that named it, for the message.
    """
    if _holds_report(folder):
        return
    plots = (f"{name}{suffix}" for name in _PLOTS for suffix in figures.SUFFIXES)
    for name in (*_NAMES, *plots):
        if files.is_regular(folder / name):
            raise ValueError(
                f"{option} must be new, or hold an earlier report, got {folder}: its "
                f"{name} would be replaced or removed."
            )


def _holds_report(folder: pathlib.Path) -> bool:
    try:
        if "rows" in files.read_json(folder / _RECORD):
            return True
    except ValueError:
        pass
    try:  # version 0.1 wrote no such record
        return files.read_text(folder / "comparison.md").startswith("| optimizer |")
    except ValueError:
        return False


def write_comparison(
    folder: str | pathlib.Path,
    groups: Sequence[Group],
    *,
    reference: str | None = None,
    select_on_test: bool = False,
) -> list[pathlib.Path]:
    """Writes tables, plots and a page of a comparison; returns the paths of the files.

    Those of an earlier comparison in the folder are replaced, and its other plots are
    removed; other files stay.

    Args:
      folder: where they go; made if it is not there.
      groups: what `group_runs` returns.
      reference: as in `paired_differences`.
      select_on_test: as in `comparison_table`.

    Raises:
      ValueError: if the folder cannot be made, or there is no such reference.
      OSError: if a file cannot be written.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> report.write_comparison("out", groups)  # doctest: +SKIP
    """
    folder = pathlib.Path(folder)
    rows, differences = compare_runs(groups), compare_pairs(groups, reference)
    files.make([folder], "folder")
    main = _cells(rows, select_on_test=select_on_test)
    paired = _difference_cells(differences)
    said = _caption(rows, select_on_test=select_on_test)
    sentence = _difference_caption(differences)
    data = {
        "dataset": dataset_of(groups[0].config),
        "selection": said,
        "devices": sorted({run.result["device"] for g in groups for run in g.runs}),
        "rows": rows,
        "differences": differences,
    }
    plots = comparison_plots.plot_comparison(groups)
    if sum(len(group.runs) for group in groups) == 1:
        plots["learning"] = _learning(groups)
    drawn = {name: figures.drawn(fig) for name, fig in plots.items()}
    parts = [(main, said)] + ([(paired, sentence)] if differences else [])
    paths = {name: folder / name for name in _NAMES}
    files.write_json(paths[_RECORD], data)  # first: by it a report is known
    files.write_text(
        paths["comparison.md"],
        "\n".join(f"{tables.markdown(cells)}\n{text}\n" for cells, text in parts),
    )
    files.write_text(
        paths["comparison.tex"],
        "\n".join(tables.latex(cells, text) for cells, text in parts),
    )
    tables.write_csv(paths["comparison.csv"], rows)
    tables.write_csv(paths["differences.csv"], differences)
    files.write_text(
        paths["report.html"],
        pages.page(groups, parts, {name: one[".svg"] for name, one in drawn.items()}),
    )
    return [*paths.values(), *_save(folder, drawn)]


def compare_pairs(
    groups: Sequence[Group], reference: str | None = None
) -> list[dict[str, Any]]:
    """Returns `paired_differences` of the accuracies that a comparison is about.

    Those of the best epoch if a validation part chose it in all runs, which is then
    their ``measure``, or else those of the last epoch.

    Raises:
      ValueError: if there is no such reference.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> row = report.compare_pairs(groups, reference="SGD")[1]
      >>> row["label"], row["seeds"], round(row["mean"], 4)
      ('Bop', [0], -0.0057)
    """
    chosen = all(_selected_by(group) == "validation" for group in groups)
    key = _BEST if chosen else "test_accuracy"
    found = statistics.paired_differences(groups, reference, key)
    return [{**row, "measure": key} for row in found]


def _learning(groups: Sequence[Group]) -> Any:
    """Returns the learning curves of the only run."""
    (group,) = [group for group in groups if group.runs]
    subject = ", ".join(filter(None, [*subject_of(group.config), group.label]))
    return run_plots.plot_learning(group.runs[0].lines, subject)


def _save(
    folder: pathlib.Path, drawn: Mapping[str, Mapping[str, bytes]]
) -> list[pathlib.Path]:
    written = []
    for name in _PLOTS:
        if name in drawn:
            written += figures.write(drawn[name], folder / f"{name}.png")
        else:
            figures.remove(folder / f"{name}.png")
    return written


def _caption(rows: Sequence[dict[str, Any]], *, select_on_test: bool) -> str:
    shown = {row["selected_by"] for row in rows}
    return tables.selection(shown if select_on_test else shown - {"test"})


def _cells(rows: Sequence[dict[str, Any]], *, select_on_test: bool) -> list[list[str]]:
    """Returns the lines of a table, headers first."""
    # The test set has chosen nothing in what is shown unless it is asked for.
    with_best = select_on_test or any(r["selected_by"] == "validation" for r in rows)
    shown = {k: v for k, v in _MEASURES.items() if v[0] != _BEST or with_best}
    by = " or ".join(sorted({row["selected_by"] for row in rows}, reverse=True))
    headers = {"best epoch (%)": f"best epoch by {by} (%)"}
    found = [["optimizer", "runs", "epochs", *(headers.get(k, k) for k in shown)]]
    for row in rows:
        cells = [row["label"], tables.format_runs(row), str(row["epochs"])]
        for key, scale, form in shown.values():
            hidden = key == _BEST and row["selected_by"] == "test"
            text = tables.format_spread(row[key], form, scale)
            cells.append("" if hidden and not select_on_test else text)
        found.append(cells)
    return found


def _difference_cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    header = ["optimizer", "seeds", "difference (points)", "95 % interval"]
    found = [[*header, "p", "p (Holm)"]]
    for row in rows:
        interval = ""
        if row["low"] is not None:
            interval = f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
        mean = "" if row["mean"] is None else f"{100 * row['mean']:+.2f}"
        tests = ["" if row[k] is None else f"{row[k]:.3f}" for k in ("p", "p_adjusted")]
        found.append([row["label"], str(len(row["seeds"])), mean, interval, *tests])
    return found


def _difference_caption(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    measure = {"test_accuracy": "last", _BEST: "best"}[rows[0]["measure"]]
    return (
        f"Test accuracy of the {measure} epoch minus that of {rows[0]['reference']}, "
        "seed by seed: mean of the differences, its interval by Student's t, and the p "
        "value of the paired t test, as it is and adjusted for all rows by Holm's "
        "method."
    )
