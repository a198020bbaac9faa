"""Plots of several methods side by side.

Methods are told apart by their names, in rows or panels of their own, not by colours:
ten lines in one panel lie on one another.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colors, figure, lines

from sgdat_jax import optimizers
from sgdat_jax.report import figures, statistics
from sgdat_jax.report import runs as runs_lib
from sgdat_jax.training.metrics import diagnostics

_Groups = Sequence[runs_lib.Group]


def plot_comparison(groups: _Groups) -> dict[str, figure.Figure]:
    """Draws everything that the runs have recorded.

    Args:
      groups: what `group_runs` returns; those whose runs all diverged are left out.

    Returns:
      Figures by name. Those of thresholds, margins, oscillation and gradients need runs
      that were recorded with diagnostics, and are left out without any.
    """
    return {
        name: plot(recorded)
        for name, (plot, where, key) in PLOTS.items()
        if (recorded := _with_record(groups, where, key))
    }


def plot_accuracy(groups: _Groups) -> figure.Figure:
    """Draws the test accuracies of the last epoch: of each seed, mean and interval.

    The interval is that of the mean by Student's t, at 95 %.
    """
    shown = "each seed, mean and its 95 % interval"
    if all(len(group.runs) == 1 for group in groups):
        shown = "one seed"
    fig, (axes,) = figures.row_panels([f"last epoch: {shown}"], _labels(groups))
    for place, group in enumerate(groups):
        percent = 100 * group.results("test_accuracy")
        axes.plot(percent, np.full(len(percent), place), "o", **_DOT)
        interval = statistics.mean_interval(percent)
        if interval:
            axes.plot(interval, (place, place), color="black", linewidth=1.5)
        axes.plot(percent.mean(), place, "|", color="black", markersize=13, mew=2)
    axes.set_xlabel("test accuracy (%)")
    figures.title(fig, _subject(groups))
    return fig


def plot_accuracy_curves(groups: _Groups) -> figure.Figure:
    """Draws test accuracies over the epochs, a panel per method.

    Bands are standard deviations over seeds; grey lines are the other methods.
    """
    values = [100 * group.values("test_accuracy") for group in groups]
    fig, grid = _curves(groups, values)
    _zoom(grid, [v.mean(0) for v in values])
    fig.supylabel("test accuracy (%)", fontsize="medium")
    figures.title(fig, f"{_subject(groups)}: mean and spread over seeds")
    return fig


def plot_flip_ratios(groups: _Groups) -> figure.Figure:
    """Draws the share of binary weights that a step flips, a panel per method."""
    ratios = [group.values("flip_ratio") for group in groups]
    fig, grid = _curves(groups, ratios)
    figures.symlog(grid[0], np.concatenate([values.mean(0) for values in ratios]))
    figures.title(fig, f"{_subject(groups)}: share of weights flipped per step")
    return fig


def plot_flip_ratios_per_layer(groups: _Groups) -> figure.Figure:
    """Draws the same for each layer: layers by epochs, a panel per method."""
    return _layer_maps(
        groups, "flip_ratio_per_layer", "share of weights flipped per step", "flips"
    )


def plot_gradients(groups: _Groups) -> figure.Figure:
    """Draws mean magnitudes of gradients, of binary and of real-valued kernels.

    Layers by epochs, a panel per method; means over seeds.
    """
    return _layer_maps(
        groups, "gradient_per_layer", "mean |gradient| in an epoch", "gradients"
    )


def plot_flip_histograms(groups: _Groups) -> figure.Figure:
    """Draws how often weights had flipped at the end, since a restart if there was one.

    A panel per method; means over seeds.
    """
    shares = [100 * group.results("flip_histogram").mean(0) for group in groups]
    filled = 1 + max(int(np.flatnonzero(values)[-1]) for values in shares)
    fig, grid = figures.small_panels(_labels(groups))
    for axes, values in zip(grid, shares, strict=True):
        axes.bar(range(filled), values[:filled], color=figures.MAIN)
        axes.set_xticks(
            range(filled), figures.flip_bins(filled), rotation=90, fontsize="small"
        )
    fig.supxlabel("flips of a weight", fontsize="medium")
    fig.supylabel("share of weights (%)", fontsize="medium")
    figures.title(fig, f"{_subject(groups)}: flip counts at the end")
    return fig


def plot_oscillation(groups: _Groups, more_than: int = 3) -> figure.Figure:
    """Draws the shares of silent and of oscillating weights, first and last epoch.

    A row per method; means over seeds.

    Args:
      groups: what `group_runs` returns, recorded with diagnostics.
      more_than: a weight oscillates if it flips more often than this in an epoch; one
        less than a power of two.

    Raises:
      ValueError: if ``more_than`` is anything else.
    """
    if more_than + 1 not in optimizers.FLIP_BINS[1:]:
        raise ValueError(
            f"`more_than` must be one less than a power of two, got {more_than}."
        )
    first = optimizers.FLIP_BINS.index(more_than + 1)
    titles = (
        "never flipped since start or restart",
        f"more than {more_than} flips in an epoch",
    )
    fig, panels = figures.row_panels(titles, _labels(groups))
    for place, group in enumerate(groups):
        never = 100 * group.values("flip_histogram")[..., 0]
        often = 100 * group.values("epoch_flip_histogram")[..., first:].sum(-1)
        for axes, values in zip(panels, (never, often), strict=True):
            ends = values.mean(0)[[0, -1]]
            axes.plot(ends, (place, place), color=figures.PALE, linewidth=2, zorder=1)
            axes.plot(ends[0], place, "o", color=figures.GREY, mfc="white")
            axes.plot(ends[1], place, "o", color=figures.MAIN)
    for axes in panels:
        axes.set_xlabel("share of weights (%)")
        low, high = axes.get_xlim()
        axes.set_xlim(-0.04 * high if low < 0.2 * high else None, None)
    handles = [
        lines.Line2D([], [], marker="o", ls="", color=figures.GREY, mfc="white"),
        lines.Line2D([], [], marker="o", ls="", color=figures.MAIN),
    ]
    names = ["first epoch", "last epoch"]
    fig.legend(handles, names, loc="outside lower right", ncols=2, frameon=False)
    figures.title(fig, f"{_subject(groups)}: silent and oscillating weights")
    return fig


def plot_thresholds(groups: _Groups) -> figure.Figure:
    """Draws the distribution of thresholds above zero at the end; means over seeds."""
    fig, _ = _powers(groups, "threshold_histogram", *diagnostics.THRESHOLD_EXPONENTS)
    fig.supxlabel("threshold", fontsize="medium")
    figures.title(fig, f"{_subject(groups)}: thresholds above zero at the end")
    return fig


def plot_margins(groups: _Groups) -> figure.Figure:
    """Draws how abs(latent) / threshold is distributed at the end; means of seeds."""
    fig, grid = _powers(groups, "margin_histogram", *diagnostics.MARGIN_EXPONENTS)
    grid[0].set_ylim(0, 1.2 * grid[0].get_ylim()[1])  # names above the bars
    for axes in grid:
        figures.name_line(axes, 1.0, "threshold")
    fig.supxlabel("|latent| / threshold", fontsize="medium")
    figures.title(fig, f"{_subject(groups)}: margin to the threshold at the end")
    return fig


# Figures by name, each with what it needs of a run: an entry of its last line of
# metrics or of its result.
PLOTS: dict[str, tuple[Callable[[_Groups], figure.Figure], str, str]] = {
    "accuracy": (plot_accuracy, "line", "test_accuracy"),
    "accuracy_curves": (plot_accuracy_curves, "line", "test_accuracy"),
    "flip_ratio": (plot_flip_ratios, "line", "flip_ratio"),
    "flip_ratio_per_layer": (
        plot_flip_ratios_per_layer,
        "line",
        "flip_ratio_per_layer",
    ),
    "flip_histogram": (plot_flip_histograms, "result", "flip_histogram"),
    "silence_and_oscillation": (plot_oscillation, "line", "epoch_flip_histogram"),
    "thresholds": (plot_thresholds, "line", "threshold_histogram"),
    "margins": (plot_margins, "line", "margin_histogram"),
    "gradients": (plot_gradients, "line", "gradient_per_layer"),
}
_DOT: dict[str, Any] = {"color": figures.MAIN, "alpha": 0.5, "mew": 0}


def _with_record(groups: _Groups, where: str, key: str) -> list[runs_lib.Group]:
    """Returns the groups all of whose runs recorded something above zero."""
    return [
        group
        for group in groups
        if group.runs
        and all(
            _recorded(run.result if where == "result" else run.lines[-1], key)
            for run in group.runs
        )
    ]


def _recorded(line: Mapping[str, Any], key: str) -> bool:
    # Bins are all zero where the optimizer has no thresholds above zero.
    return key in line and (not isinstance(line[key], list) or any(line[key]))


def _labels(groups: _Groups) -> list[str]:
    return [group.label for group in groups]


def _subject(groups: _Groups) -> str:
    """Returns the data set, and the networks if they are not in the labels."""
    models = {runs_lib.model_of(group.config) for group in groups}
    parts = runs_lib.subject_of(groups[0].config)[: 2 if len(models) == 1 else 1]
    if len(groups) == 1:
        parts.append(groups[0].label)
    return ", ".join(filter(None, parts))


def _curves(
    groups: _Groups, values: Sequence[np.ndarray]
) -> tuple[figure.Figure, list[Any]]:
    """Draws values (runs, epochs) of each group in a panel, before all the others."""
    fig, grid = figures.small_panels(_labels(groups))
    for axes, group, own in zip(grid, groups, values, strict=True):
        for other, theirs in zip(groups, values, strict=True):
            if other is not group:
                axes.plot(
                    other.epochs, theirs.mean(0), color=figures.PALE, lw=0.8, zorder=1
                )
        mean = own.mean(0)
        spread = own.std(0, ddof=1) if len(own) > 1 else np.zeros_like(mean)
        dot = figures.marker(group.epochs)
        axes.plot(group.epochs, mean, color=figures.MAIN, marker=dot, zorder=3)
        axes.fill_between(
            group.epochs, mean - spread, mean + spread, color=figures.MAIN, alpha=0.2,
            linewidth=0,
        )  # fmt: skip
        figures.label_epochs(axes, max((g.epochs for g in groups), key=len))
    return fig, grid


def _zoom(grid: Sequence[Any], means: Sequence[np.ndarray]) -> None:
    """Leaves out what few curves have below all others, as at their first epoch."""
    values = np.concatenate(means)
    low, high = np.quantile(values, 0.03), values.max()
    margin = 0.06 * (high - low) or 1.0
    grid[0].set_ylim(max(values.min(), low) - margin, high + margin)


def _layer_maps(groups: _Groups, key: str, label: str, subject: str) -> figure.Figure:
    """Draws numbers as colours: layers by epochs, a panel per method."""
    maps = [_per_layer(group, key) for group in groups]
    names = list(dict.fromkeys(itertools.chain(*maps)))
    drawn = [
        np.array([of.get(n, np.full(len(g.epochs), np.nan)) for n in names])
        for g, of in zip(groups, maps, strict=True)
    ]
    positive = np.concatenate([np.ravel(d) for d in drawn])
    positive = positive[positive > 0]  # neither zeros nor what is not there
    ends = (positive.min(), positive.max()) if positive.size else (1e-6, 1.0)
    norm = colors.LogNorm(ends[0], max(ends[1], ends[0] * 1.01))
    fig, grid = figures.small_panels(_labels(groups))
    fig.set_figheight(fig.get_figheight() * max(1.0, len(names) / 9))
    for axes, group, values in zip(grid, groups, drawn, strict=True):
        axes.grid(visible=False)
        axes.set_facecolor("0.9")  # of zeros, and of layers that are not there
        first, last = group.epochs[0] - 0.5, group.epochs[-1] + 0.5
        image = axes.imshow(
            np.ma.masked_less_equal(np.nan_to_num(values), 0),
            cmap=figures.MAP,
            norm=norm,
            aspect="auto",
            interpolation="nearest",
            extent=(first, last, len(names) - 0.5, -0.5),
        )
        figures.label_epochs(axes, group.epochs)
        axes.set_yticks(range(len(names)), names, fontsize="small")
    fig.colorbar(image, ax=grid, label=label, shrink=0.8)
    figures.title(fig, f"{_subject(groups)}: {subject} of each layer")
    return fig


def _per_layer(group: runs_lib.Group, key: str) -> dict[str, np.ndarray]:
    """Returns the mean over seeds in each epoch, by layer, binary or real-valued."""
    found: Any = [run.lines for run in group.runs]
    line = found[0][0]
    binary = line.get("flip_ratio_per_layer", {})
    named = key == "gradient_per_layer"
    return {
        (f"{name} ({'binary' if name in binary else 'real'})" if named else name): (
            np.array([[line[key][name] for line in run] for run in found]).mean(0)
        )
        for name in line[key]
        if not name.endswith(("/bias", "/scale"))
    }


def _powers(
    groups: _Groups, key: str, low: int, high: int
) -> tuple[figure.Figure, list[Any]]:
    """Draws a distribution over powers of two, a panel per method."""
    edges = 2.0 ** np.arange(low, high + 1)
    fig, grid = figures.small_panels(_labels(groups))
    for axes, group in zip(grid, groups, strict=True):
        shares = 100 * group.values(key)[:, -1].mean(0)
        axes.stairs(shares, edges, color=figures.MAIN, fill=True, alpha=0.8)
        axes.set_xscale("log")
    filled = np.flatnonzero(sum(g.values(key)[:, -1].sum(0) for g in groups))
    grid[0].set_xlim(edges[filled[0]], edges[filled[-1] + 1])
    fig.supylabel("share of weights (%)", fontsize="medium")
    return fig, grid
