"""Table and heat map of a sweep."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import figure
from rich import box
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
    """
    _check(rows)
    table = rich_table.Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for header in _headers(rows):
        table.add_column(header, justify="right")
    for row in rows[:best]:
        table.add_row(*_cells(row, by_validation=_is_by_validation(rows)))
    return table


def plot_heat_map(rows: Sequence[dict[str, Any]]) -> figure.Figure:
    """Draws accuracy over the one or two hyperparameters that have several values.

    Settings whose runs all diverged have no color.

    Args:
      rows: what `rank_settings` returns.

    Raises:
      ValueError: if there are no rows.
    """
    _check(rows)
    values = {
        name: sorted({row["hyperparameters"][name] for row in rows})
        for name in rows[0]["hyperparameters"]
    }
    several = [name for name in values if len(values[name]) > 1] or [*values]
    across, down = several[0], several[1] if len(several) == 2 else None
    rows_down = values[down] if down else [None]
    shape = (len(rows_down), len(values[across]))
    means, texts = np.full(shape, np.nan), np.full(shape, "", object)
    for row in rows:
        given = row["hyperparameters"]
        place = (
            rows_down.index(given[down] if down else None),
            values[across].index(given[across]),
        )
        if row["test_accuracy"]["mean"] is not None:
            means[place] = 100 * row["test_accuracy"]["mean"]
        texts[place] = _percent(row["test_accuracy"]).replace(" ± ", "\n± ")
        if row["diverged"]:
            texts[place] = f"{texts[place]}\n{row['diverged']} diverged".strip()
    fig, (axes,) = figures.panels(1)
    axes.grid(visible=False)
    image = axes.imshow(means, origin="lower", aspect="auto", cmap=figures.MAP)
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for (y, x), text in np.ndenumerate(texts):
        color = "white" if means[y, x] < middle else "black"
        axes.text(x, y, text, ha="center", va="center", color=color, fontsize="small")
    axes.set_xticks(range(shape[1]), [f"{value:g}" for value in values[across]])
    axes.set_xlabel(across)
    if down:
        axes.set_yticks(range(shape[0]), [f"{value:g}" for value in rows_down])
        axes.set_ylabel(down)
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
    fig.colorbar(image)
    return fig


def write_sweep(
    folder: pathlib.Path, trials: Sequence[dict[str, Any]]
) -> list[pathlib.Path]:
    """Writes table, raw numbers and heat map of a sweep, and returns their paths.

    Args:
      folder: where they go.
      trials: lines of the sweep's file of trials.

    Raises:
      ValueError: if there are no trials.
      OSError: if a file cannot be written.
    """
    rows = rank_settings(trials)
    markdown, table, raw, picture = (
        folder / name
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
