"""What all figures have in common."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import figure, ticker

from sgdat_jax import files

_SIZE = (7.0, 4.2)  # inches, of a figure with one panel


def panels(columns: int, rows: int = 1) -> tuple[figure.Figure, list[Any]]:
    """Returns a figure and its panels, row by row.

    It is not made through pyplot, which would keep every figure alive.
    """
    width, height = _SIZE
    fig = figure.Figure(
        (width * (1 + 0.5 * (columns - 1)), height * (1 + 0.7 * (rows - 1))),
        layout="constrained",
    )
    grid = list(np.ravel(fig.subplots(rows, columns, squeeze=False)))
    for axes in grid:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return fig, grid


def save(fig: figure.Figure, file: pathlib.Path) -> None:
    """Writes a figure as a PNG file, or none if that fails."""
    with files.whole(file, "wb") as data:
        fig.savefig(data, format="png", dpi=150)


def label_epochs(axes: Any) -> None:
    """Makes epochs the horizontal axis."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def symlog(axes: Any, values: Sequence[float] | np.ndarray) -> None:
    """Makes the vertical axis logarithmic, with a place for zero below all values."""
    positive = [value for value in values if value > 0]
    axes.set_yscale("symlog", linthresh=min(positive, default=1e-6))
    axes.set_ylim(0, None)


def marker(epochs: Sequence[int] | np.ndarray) -> str:
    """Returns a dot for a single epoch, whose line would not be seen."""
    return "." if len(epochs) == 1 else ""
