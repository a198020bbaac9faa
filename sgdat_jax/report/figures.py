"""What all figures have in common."""

import contextlib
import io
import itertools
import pathlib
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps, figure, ticker

from sgdat_jax import files, optimizers

# Seven of Okabe and Ito's eight colours, which the colour-blind can tell apart; their
# yellow is too pale for lines. https://jfly.uni-koeln.de/color/
_PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
MAIN, SECOND = _PALETTE[:2]
GREY, PALE = "0.45", "0.8"
MAP = "cividis"  # for numbers as colours
SUFFIXES = (".png", ".svg")
_SIZE = (7.0, 4.2)  # inches, of a figure with one panel
_SMALL = (2.3, 1.75)  # of a panel among many
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "svg.hashsalt": "sgdat_jax",  # the same picture is the same file
}


def colors(count: int) -> list[Any]:
    """Returns colours that differ, also for the colour-blind.

    Up to seven are of a palette; more go from dark to light.
    """
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    return list(colormaps[MAP](np.linspace(0, 0.9, count)))


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
        _tidy(axes)
    return fig, grid


def flip_bins(count: int) -> list[str]:
    """Returns the names of the first of `optimizers.FLIP_BINS`, the last one open."""
    names = [
        str(low) if high - low <= 1 else f"{low}-{high - 1}"
        for low, high in itertools.pairwise(optimizers.FLIP_BINS)
    ]
    return [*names, f"{optimizers.FLIP_BINS[-1]} or more"][:count]


def small_panels(
    titles: Sequence[str], columns: int = 5
) -> tuple[figure.Figure, list[Any]]:
    """Returns a figure of small panels with the same axes, and those that are used.

    Args:
      titles: of the panels.
      columns: at most.
    """
    count = len(titles)
    rows = -(-count // columns)
    columns = -(-count // rows)  # as even as it goes
    width, height = _SMALL
    fig = figure.Figure(
        (max(width * columns + 0.7, 5.0), height * rows + 0.9), layout="constrained"
    )
    grid = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    flat = list(np.ravel(grid))
    for axes, title in zip(flat, titles, strict=False):
        _tidy(axes)
        axes.set_title(wrapped(title, 24), fontsize="medium", loc="left")
    for axes in flat[count:]:
        axes.set_axis_off()
    for axes in flat[max(count - columns, 0) : count]:
        axes.xaxis.set_tick_params(labelbottom=True)
    return fig, flat[:count]


def row_panels(titles: Sequence[str], names: Sequence[str]) -> tuple[Any, list[Any]]:
    """Returns a figure of panels side by side that have a row for each name.

    Args:
      titles: of the panels.
      names: of the rows, written once, from the top.
    """
    width = 3.2 + 2.9 * len(titles)
    fig = figure.Figure((width, 1.5 + 0.3 * len(names)), layout="constrained")
    grid = list(np.ravel(fig.subplots(1, len(titles), squeeze=False, sharey=True)))
    for axes, title in zip(grid, titles, strict=True):
        _tidy(axes)
        axes.set_title(title, fontsize="medium", loc="left")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    labels = [wrapped(name, 34) for name in names]
    grid[0].set_yticks(range(len(names)), labels)
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    return fig, grid


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def wrapped(text: str, width: int) -> str:
    """Returns a text in lines of a width."""
    return "\n".join(textwrap.wrap(text, width)) or text


def title(fig: figure.Figure, text: str) -> None:
    """Writes a title above a figure, unless it is empty."""
    if text:
        fig.suptitle(text, fontsize="large", x=0.01, ha="left")


@contextlib.contextmanager
def any_letters() -> Iterator[None]:
    """Holds back Matplotlib's warning for each letter that its font draws as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        yield


def save(fig: figure.Figure, file: pathlib.Path) -> list[pathlib.Path]:
    """Writes a figure as a PNG file and, beside it, as SVG; returns their paths.

    Of each either the whole file is written or none.
    """
    return write(drawn(fig), file)


def drawn(fig: figure.Figure) -> dict[str, bytes]:
    """Returns the content of files of a figure by their suffixes."""
    found = {}
    with mpl.rc_context(_SETTINGS), any_letters():
        for suffix in SUFFIXES:
            content = io.BytesIO()
            metadata = {"Date": None} if suffix == ".svg" else None
            fig.savefig(content, format=suffix[1:], dpi=150, metadata=metadata)
            found[suffix] = content.getvalue()
            fig.set_layout_engine("none")  # it is as it was laid out for the first
    return found


def write(content: Mapping[str, bytes], file: pathlib.Path) -> list[pathlib.Path]:
    """Writes what `drawn` returns, and returns the paths of the files."""
    paths = {file.with_suffix(suffix): data for suffix, data in content.items()}
    for path, data in paths.items():
        with files.whole(path, "wb") as stream:
            stream.write(data)
    return list(paths)


def remove(file: pathlib.Path) -> None:
    """Removes a figure that `save` wrote, if it is there."""
    for suffix in SUFFIXES:
        if files.is_regular(file.with_suffix(suffix)):
            files.remove(file.with_suffix(suffix))


def label_epochs(axes: Any, epochs: Sequence[int] | np.ndarray) -> None:
    """Labels the horizontal axis with epochs, as whole numbers."""
    if axes.xaxis.get_tick_params()["labelbottom"]:  # not within small panels
        axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(
        ticker.MaxNLocator(integer=True, min_n_ticks=1, nbins=6)
    )
    if len(epochs) == 1:  # around which no other number would be whole
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_xticks([epochs[0]])


def label_ends(axes: Any, size: float = 9.0) -> None:
    """Writes the label of each line at its right end, and none over another.

    The limits of the axes are final after it. Labels that begin with an underscore, as
    Matplotlib's own for lines without one, are left out.

    Args:
      axes: with lines.
      size: of the text in points.
    """
    axes.set_ylim(axes.get_ylim())
    ends = []
    for line in axes.get_lines():
        values = np.asarray(line.get_ydata(), np.float64)
        known = np.flatnonzero(np.isfinite(values))
        if known.size and not str(line.get_label()).startswith("_"):
            point = (0.0, values[known[-1]])
            scaled = axes.transLimits.transform(axes.transScale.transform(point))
            ends.append([float(np.clip(scaled[1], 0, 1)), line])
    height = 72 * axes.figure.get_figheight() * axes.get_position().height
    gap = 1.25 * size / height
    ends.sort(key=lambda end: end[0])
    for lower, upper in itertools.pairwise(ends):
        upper[0] = max(upper[0], lower[0] + gap)
    over = max((end[0] for end in ends), default=0.0) - 1 - gap
    for index, (place, line) in enumerate(ends):
        axes.annotate(
            line.get_label(),
            (1.02, max(place - max(over, 0), gap * index)),
            xycoords="axes fraction",
            va="center",
            fontsize=size,
            color=line.get_color(),
            annotation_clip=False,
        )


def name_line(axes: Any, value: float, name: str) -> None:
    """Draws a vertical line at a value, with its name beside it."""
    axes.axvline(value, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        name,
        (value, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        va="top",
        fontsize="small",
    )


def symlog(axes: Any, values: Sequence[float] | np.ndarray) -> None:
    """Makes the vertical axis logarithmic, with a place for zero below all values."""
    positive = [value for value in values if value > 0]
    axes.set_yscale("symlog", linthresh=min(positive, default=1e-6))
    axes.set_ylim(0, None)


def marker(epochs: Sequence[int] | np.ndarray) -> str:
    """Returns a dot for a single epoch, whose line would not be seen."""
    return "o" if len(epochs) == 1 else ""
