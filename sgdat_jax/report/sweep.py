"""Table and heat map of a sweep."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import figure
from rich import table as rich_table

from sgdat_jax import files
from sgdat_jax.report import figures, tables

_MEASURES = (
    "test_accuracy",
    "best_test_accuracy",
    "valid_accuracy",
    "flips_per_weight",
)


def rank_settings(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the settings of a sweep, best first by the last epoch's accuracy.

    The accuracy of the validation part if the sweep had one, or else of the test set.

    Args:
      trials: lines of the sweep's file of trials.

    Returns:
      A dictionary per setting: ``hyperparameters``, ``runs`` and how many of them
      ``diverged``, and of each measure ``mean`` and ``std`` over the other runs;
      ``std`` is None for a single run, both are None where all diverged. Such settings
      are the last.

    Raises:
      ValueError: if there are no trials.

    Example:
      >>> from sgdat_jax import report
      >>> trials = [
      ...     {
      ...         "hyperparameters": {"learning_rate": rate},
      ...         "diverged": False,
      ...         "test_accuracy": accuracy,
      ...         "best_test_accuracy": accuracy,
      ...         "flips_per_weight": 1.0,
      ...     }
      ...     for rate, accuracy in ((1e-4, 0.8), (1e-3, 0.9))
      ... ]
      >>> [row["hyperparameters"] for row in report.rank_settings(trials)]
      [{'learning_rate': 0.001}, {'learning_rate': 0.0001}]
    """
    _check(trials)
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for trial in trials:
        key = tuple(trial["hyperparameters"].items())
        grouped.setdefault(key, []).append(trial)
    rows = [_row(dict(key), members) for key, members in grouped.items()]
    return sorted(rows, key=_accuracy, reverse=True)


def _accuracy(row: dict[str, Any]) -> float:
    mean = row[_ranking(row)]["mean"]
    return -1.0 if mean is None else mean


def _ranking(row: dict[str, Any]) -> str:
    """Returns the measure that ranks settings."""
    known = row["valid_accuracy"]["mean"] is not None
    return "valid_accuracy" if known else "test_accuracy"


def _row(
    hyperparameters: dict[str, float], trials: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    finite = [trial for trial in trials if not trial["diverged"]]
    return {
        "hyperparameters": hyperparameters,
        "runs": len(trials),
        "diverged": len(trials) - len(finite),
        **{name: tables.spread(finite, name) for name in _MEASURES},
    }


def settings_table(rows: Sequence[dict[str, Any]], best: int = 10) -> rich_table.Table:
    """Returns the table of a sweep's best settings for the terminal.

    Args:
      rows: what `rank_settings` returns.
      best: number of settings to show.

    Raises:
      ValueError: if there are no rows.

    Example:
      >>> import pathlib
      >>> from sgdat_jax import report
      >>> from sgdat_jax.experiments import sweep
      >>> folder = pathlib.Path("runs/sweep-digits-DigitsNet-sgdat")
      >>> trials = sweep.read(folder)  # doctest: +SKIP
      >>> rows = report.rank_settings(trials)  # doctest: +SKIP
      >>> report.settings_table(rows)  # doctest: +SKIP
    """
    _check(rows)
    by_validation = _is_by_validation(rows)
    lines = [_cells(row, by_validation=by_validation) for row in rows[:best]]
    return tables.terminal([_headers(rows), *lines], first="right")


def plot_heat_map(rows: Sequence[dict[str, Any]]) -> figure.Figure:
    """Draws accuracy over the one or two hyperparameters that have several values.

    Settings whose runs all diverged have no color.

    Args:
      rows: what `rank_settings` returns.

    Raises:
      ValueError: if there are no rows.

    Example:
      >>> import pathlib
      >>> from sgdat_jax import report
      >>> from sgdat_jax.experiments import sweep
      >>> folder = pathlib.Path("runs/sweep-digits-DigitsNet-sgdat")
      >>> trials = sweep.read(folder)  # doctest: +SKIP
      >>> rows = report.rank_settings(trials)  # doctest: +SKIP
      >>> report.plot_heat_map(rows).savefig("sweep.png")  # doctest: +SKIP
    """
    _check(rows)
    values = {
        name: sorted({row["hyperparameters"][name] for row in rows})
        for name in rows[0]["hyperparameters"]
    }
    several = [name for name in values if len(values[name]) > 1] or [*values]
    across, down = several[0], several[1] if len(several) == 2 else None
    rows_down = values[down] if down else [None]
    means = np.full((len(rows_down), len(values[across])), np.nan)
    texts = np.full(means.shape, "", object)
    for row in rows:
        given = row["hyperparameters"]
        place = (
            rows_down.index(given[down] if down else None),
            values[across].index(given[across]),
        )
        if row["test_accuracy"]["mean"] is not None:
            means[place] = 100 * row["test_accuracy"]["mean"]
        texts[place] = _cell_text(row)
    fig, axes = _colored(means, texts)
    _label(axes.xaxis, across, values[across])
    if down:
        _label(axes.yaxis, down, values[down])
    else:
        axes.set_yticks([])
    runs = {row["runs"] for row in rows}
    seeds = f"{max(runs)} seeds each" if max(runs) > 1 else "one seed each"
    axes.set_title(
        f"test accuracy (%), last epoch, {seeds if len(runs) == 1 else ''}".rstrip(
            ", "
        ),
        loc="left",
    )
    return fig


def _cell_text(row: dict[str, Any]) -> str:
    text = _percent(row["test_accuracy"]).replace(" ± ", "\n± ")
    if row["diverged"]:
        text = f"{text}\n{row['diverged']} diverged"
    return text.strip()


def _colored(means: np.ndarray, texts: np.ndarray) -> tuple[figure.Figure, Any]:
    """Returns a figure of coloured cells with their texts, and its panel."""
    fig, (axes,) = figures.panels(1)
    axes.grid(visible=False)
    image = axes.imshow(means, origin="lower", aspect="auto", cmap=figures.MAP)
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for (y, x), text in np.ndenumerate(texts):
        color = "white" if means[y, x] < middle else "black"
        axes.text(x, y, text, ha="center", va="center", color=color, fontsize="small")
    fig.colorbar(image)
    return fig, axes


def _label(axis: Any, name: str, values: Sequence[float]) -> None:
    """Labels an axis of cells with the values of a hyperparameter."""
    axis.set_ticks(range(len(values)), [f"{value:g}" for value in values])
    axis.set_label_text(name)


def write_sweep(
    folder: str | pathlib.Path, trials: Sequence[dict[str, Any]]
) -> list[pathlib.Path]:
    """Writes table, raw numbers and heat map of a sweep, and returns their paths.

    Args:
      folder: where they go.
      trials: lines of the sweep's file of trials.

    Raises:
      ValueError: if there are no trials.
      OSError: if a file cannot be written.

    Example:
      >>> import pathlib
      >>> from sgdat_jax import report
      >>> from sgdat_jax.experiments import sweep
      >>> folder = pathlib.Path("runs/sweep-digits-DigitsNet-sgdat")
      >>> trials = sweep.read(folder)  # doctest: +SKIP
      >>> report.write_sweep(folder, trials)  # doctest: +SKIP
    """
    rows = rank_settings(trials)
    markdown, table, raw, picture = (
        pathlib.Path(folder, name)
        for name in ("settings.md", "trials.csv", "settings.json", "heat_map.png")
    )
    headers, by_validation = _headers(rows), _is_by_validation(rows)
    cells = [_cells(row, by_validation=by_validation) for row in rows]
    lines = [headers, *cells]
    heat_map = plot_heat_map(rows)
    said = _selection(rows)
    files.write_text(markdown, f"{tables.markdown(lines)}\n{said}\n")
    files.write_json(raw, rows)
    tables.write_csv(table, [_columns(trial) for trial in trials])
    return [markdown, table, raw, *figures.save(heat_map, picture)]


def _check(trials: Sequence[dict[str, Any]]) -> None:
    if not trials:
        raise ValueError("There must be at least one finished trial.")


def _headers(rows: Sequence[dict[str, Any]]) -> list[str]:
    validation = ["validation (%)"] if _is_by_validation(rows) else []
    by = "validation" if validation else "test"
    measures = ["last epoch (%)", f"best epoch by {by} (%)", "flips per weight"]
    return [*rows[0]["hyperparameters"], "runs", *validation, *measures]


def _is_by_validation(rows: Sequence[dict[str, Any]]) -> bool:
    return _ranking(rows[0]) == "valid_accuracy"


def _selection(rows: Sequence[dict[str, Any]]) -> str:
    by = "validation" if _is_by_validation(rows) else "test"
    ranked = {
        "validation": "the validation part, on which the test set has no influence",
        "test": "the test set itself: use --validation-share to report the best one",
    }[by]
    return f"{tables.selection([by])} Settings are ranked by {ranked}."


def _cells(row: dict[str, Any], *, by_validation: bool) -> list[str]:
    return [
        *(f"{value:g}" for value in row["hyperparameters"].values()),
        tables.format_runs(row),
        *([_percent(row["valid_accuracy"])] if by_validation else []),
        _percent(row["test_accuracy"]),
        _percent(row["best_test_accuracy"]),
        tables.format_spread(row["flips_per_weight"], ".2f"),
    ]


def _percent(spread: dict[str, float | None]) -> str:
    return tables.format_spread(spread, ".2f", 100)


def _columns(trial: dict[str, Any]) -> dict[str, Any]:
    left_out = ("hyperparameters", "test_accuracies", "valid_accuracies")
    rest = {key: value for key, value in trial.items() if key not in left_out}
    return trial["hyperparameters"] | rest
