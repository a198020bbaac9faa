"""Plots of several methods side by side."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, figure

from sgdat_jax import optimizers
from sgdat_jax.report import figures
from sgdat_jax.report import runs as runs_lib
from sgdat_jax.training import diagnostics

_Groups = Sequence[runs_lib.Group]


def plot_comparison(groups: _Groups) -> dict[str, figure.Figure]:
    """Draws everything that the runs have recorded.

    Args:
      groups: what `group_runs` returns; those all of whose runs diverged are left out.

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
    """Draws test accuracies over the epochs, and those of the last epoch, run by run.

    Bands are standard deviations over seeds.
    """
    fig, (curves, last) = figures.panels(2)
    for group, color in _colored(groups):
        percent = 100 * group.values("test_accuracy")
        _draw_band(curves, group, percent, color)
    ends = [100 * group.results("test_accuracy") for group in groups]
    for place, (values, (_, color)) in enumerate(
        zip(ends, _colored(groups), strict=True)
    ):
        last.plot(values, np.full(len(values), place), "o", color=color, alpha=0.5)
        last.plot(values.mean(), place, "|", color="black", markersize=18)
    last.set_yticks(range(len(groups)), [group.label for group in groups])
    last.invert_yaxis()
    last.set(xlabel="test accuracy (%)", title="last epoch, each seed and mean")
    curves.set(ylabel="test accuracy (%)", title="mean and spread over seeds")
    figures.label_epochs(curves)
    curves.legend(frameon=False, fontsize="small")
    return fig


def plot_flip_ratios(groups: _Groups) -> figure.Figure:
    """Draws the share of binary weights that a step flips, over the epochs."""
    fig, (axes,) = figures.panels(1)
    _draw_flip_ratios(axes, groups, [group.values("flip_ratio") for group in groups])
    axes.set(ylabel="share of weights flipped per step", title="flip ratio")
    axes.legend(frameon=False, fontsize="small")
    return fig


def plot_flip_ratios_per_layer(groups: _Groups) -> figure.Figure:
    """Draws the same for each layer, a panel per layer."""
    layers: Any = [group.runs[0].lines[0]["flip_ratio_per_layer"] for group in groups]
    names = list(dict.fromkeys(itertools.chain(*layers)))
    columns = min(len(names), 4)
    fig, grid = figures.panels(columns, -(-len(names) // columns))
    for axes, name in zip(grid, names, strict=False):
        having = [g for g, own in zip(groups, layers, strict=True) if name in own]
        means = [_of_layer(group, "flip_ratio_per_layer", name) for group in having]
        _draw_flip_ratios(axes, having, means)
        axes.set_title(name)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    grid[0].set_ylabel("share of weights flipped per step")
    grid[0].legend(frameon=False, fontsize="small")
    return fig


def plot_flip_histograms(groups: _Groups) -> figure.Figure:
    """Draws how often weights had flipped at the end, since a restart if there was one.

    Means over seeds.
    """
    fig, (axes,) = figures.panels(1)
    filled = 1
    for group, color in _colored(groups):
        shares = group.results("flip_histogram").mean(0)
        filled = max(filled, int(np.flatnonzero(shares)[-1]) + 1)
        shown = np.where(shares > 0, shares, np.nan)
        axes.plot(shown, color=color, marker="o", markersize=3, label=group.label)
    bins = [*optimizers.FLIP_BINS[:filled], 2 * optimizers.FLIP_BINS[filled - 1]]
    ticks = [
        str(low) if high - low <= 1 else f"{low}-{high - 1}"
        for low, high in itertools.pairwise(bins)
    ]
    axes.set_xticks(range(filled), ticks, rotation=45)
    axes.set(
        xlabel="flips of a weight",
        ylabel="share of weights",
        title="flip counts at the end",
        yscale="log",
    )
    axes.legend(frameon=False, fontsize="small")
    return fig


def plot_oscillation(groups: _Groups, more_than: int = 3) -> figure.Figure:
    """Draws the shares of silent and of oscillating weights over the epochs.

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
    fig, (silent, oscillating) = figures.panels(2)
    for group, color in _colored(groups):
        never = group.values("flip_histogram")[..., 0]
        often = group.values("epoch_flip_histogram")[..., first:].sum(-1)
        _draw_band(silent, group, 100 * never, color)
        _draw_band(oscillating, group, 100 * often, color)
    silent.set(
        ylabel="share of weights (%)", title="never flipped since start or restart"
    )
    oscillating.set(title=f"more than {more_than} flips in an epoch")
    for axes in (silent, oscillating):
        figures.label_epochs(axes)
    silent.legend(frameon=False, fontsize="small")
    return fig


def plot_thresholds(groups: _Groups) -> figure.Figure:
    """Draws the distribution of thresholds above zero at the end; means over seeds."""
    fig, (axes,) = figures.panels(1)
    _draw_powers(axes, groups, "threshold_histogram", *diagnostics.THRESHOLD_EXPONENTS)
    axes.set(xlabel="threshold", title="thresholds above zero at the end")
    return fig


def plot_margins(groups: _Groups) -> figure.Figure:
    """Draws how abs(latent) / threshold is distributed at the end; means of seeds."""
    fig, (axes,) = figures.panels(1)
    _draw_powers(axes, groups, "margin_histogram", *diagnostics.MARGIN_EXPONENTS)
    axes.axvline(1, color="black", linestyle="--")
    axes.set(xlabel="|latent| / threshold", title="margin to the threshold at the end")
    return fig


def plot_gradients(groups: _Groups) -> figure.Figure:
    """Draws mean magnitudes of gradients, of binary and of real-valued kernels.

    A panel per method; means over seeds.
    """
    columns = min(len(groups), 4)
    fig, grid = figures.panels(columns, -(-len(groups) // columns))
    for axes, group in zip(grid, groups, strict=False):
        line: Any = group.runs[0].lines[0]
        for name in line["gradient_per_layer"]:
            if name.endswith(("/bias", "/scale")):
                continue
            binary = name in line.get("flip_ratio_per_layer", ())
            axes.plot(
                group.epochs,
                _of_layer(group, "gradient_per_layer", name).mean(0),
                linestyle="-" if binary else "--",
                marker=figures.marker(group.epochs),
                label=f"{name} ({'binary' if binary else 'real'})",
            )
        axes.set(title=group.label, yscale="log")
        figures.label_epochs(axes)
    for axes in grid[len(groups) :]:
        axes.set_axis_off()
    grid[0].set_ylabel("mean |gradient| in an epoch")
    grid[0].legend(frameon=False, fontsize="small")
    return fig


# Figures by name, each with what it needs of a run: an entry of its last line of
# metrics or of its result.
PLOTS: dict[str, tuple[Callable[[_Groups], figure.Figure], str, str]] = {
    "accuracy": (plot_accuracy, "line", "test_accuracy"),
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


def _of_layer(group: runs_lib.Group, key: str, name: str) -> np.ndarray:
    found: Any = [run.lines for run in group.runs]
    return np.array([[line[key][name] for line in lines] for lines in found])


def _colored(groups: _Groups) -> list[tuple[runs_lib.Group, Any]]:
    # By its place among all groups, so that a method looks the same in every plot.
    return [
        (group, colormaps["Dark2" if group.place >= 10 else "tab10"](group.place % 10))
        for group in groups
    ]


def _draw_band(
    axes: Any, group: runs_lib.Group, values: np.ndarray, color: Any
) -> None:
    """Draws mean and standard deviation over runs of values (runs, epochs)."""
    mean = values.mean(0)
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
    marker = figures.marker(group.epochs)
    axes.plot(group.epochs, mean, color=color, marker=marker, label=group.label)
    axes.fill_between(
        group.epochs, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0
    )


def _draw_flip_ratios(axes: Any, groups: _Groups, ratios: Sequence[np.ndarray]) -> None:
    means = [values.mean(0) for values in ratios]
    for (group, color), mean in zip(_colored(groups), means, strict=True):
        marker = figures.marker(group.epochs)
        axes.plot(group.epochs, mean, color=color, marker=marker, label=group.label)
    figures.symlog(axes, np.concatenate(means))
    figures.label_epochs(axes)


def _draw_powers(axes: Any, groups: _Groups, key: str, low: int, high: int) -> None:
    edges = 2.0 ** np.arange(low, high + 1)
    for group, color in _colored(groups):
        shares = group.values(key)[:, -1].mean(0)
        axes.stairs(100 * shares, edges, color=color, label=group.label)
    axes.set(ylabel="share of weights (%)", xscale="log")
    filled = np.flatnonzero(sum(g.values(key)[:, -1].sum(0) for g in groups))
    axes.set_xlim(edges[filled[0]], edges[filled[-1] + 1])
    axes.legend(frameon=False, fontsize="small")
