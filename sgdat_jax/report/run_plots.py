"""Plots of one run."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib import figure, ticker

from sgdat_jax import files, optimizers
from sgdat_jax.report import figures

_GREY = "0.45"


def plot_learning(lines: Sequence[Mapping[str, Any]]) -> figure.Figure:
    """Draws loss and accuracy of training and test over the epochs.

    Args:
      lines: the lines of a run's metrics file.
    """
    fig, (loss, accuracy) = figures.panels(2)
    epochs = [line["epoch"] for line in lines]
    marker = figures.marker(epochs)
    for part, color in (("train", _GREY), ("test", "C0")):
        style = {"color": color, "marker": marker}
        loss.plot(epochs, [line[f"{part}_loss"] for line in lines], **style, label=part)
        percent = [100 * line[f"{part}_accuracy"] for line in lines]
        accuracy.plot(epochs, percent, **style, label=part)
    last = lines[-1]
    accuracy.set_title(f"test accuracy {last['test_accuracy']:.2%}, last epoch")
    loss.set(ylabel="cross-entropy (nats)", title="loss")
    accuracy.set(ylabel="accuracy (%)")
    for axes in (loss, accuracy):
        figures.label_epochs(axes)
        axes.legend(frameon=False)
    return fig


def plot_flip_ratio(lines: Sequence[Mapping[str, Any]]) -> figure.Figure:
    """Draws the share of weights that a step flips, layer by layer over the epochs.

    Args:
      lines: the lines of a run's metrics file.
    """
    fig, (axes,) = figures.panels(1)
    epochs = [line["epoch"] for line in lines]
    for name in lines[0]["flip_ratio_per_layer"]:
        ratios = [line["flip_ratio_per_layer"][name] for line in lines]
        axes.plot(epochs, ratios, marker=figures.marker(epochs), label=name)
    axes.plot(
        epochs,
        [line["flip_ratio"] for line in lines],
        color="black",
        linestyle="--",
        marker=figures.marker(epochs),
        label="all binary weights",
    )
    figures.symlog(axes, [line["flip_ratio"] for line in lines])
    axes.set(ylabel="share of weights flipped per step", title="flip ratio")
    figures.label_epochs(axes)
    axes.legend(frameon=False)
    return fig


def plot_flip_counts(opt_state: Any) -> figure.Figure:
    """Draws how often weights flipped, and how far latents are from their thresholds.

    The second picture is left out for an optimizer without thresholds above zero.

    Args:
      opt_state: the state of a binary optimizer, within whatever wraps it.

    Raises:
      ValueError: if it holds no flip counts.
    """
    flips = optimizers.flip_counts(opt_state)
    never = float(optimizers.silent_ratio(flips).total)
    margins = _margins(opt_state)
    fig, axes = figures.panels(1 if margins is None else 2)
    for name, leaf in optimizers.layers_of(flips).items():
        values = np.asarray(leaf).ravel()
        shares = np.bincount(values) / values.size
        axes[0].plot(shares, marker="o", markersize=3, label=name)
    axes[0].set(
        xlabel="flips of a weight",
        ylabel="share of weights",
        title=f"flip counts ({never:.0%} never flipped)",
        yscale="log",
    )
    axes[0].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes[0].legend(frameon=False)
    if margins is not None:
        edges = np.geomspace(margins.min(), margins.max() * 1.0001, 50)
        axes[1].hist(margins, edges, color="C0")
        axes[1].axvline(1, color="black", linestyle="--")
        axes[1].set(
            xlabel="|latent| / threshold",
            ylabel="weights",
            title="margin to the threshold",
            xscale="log",
        )
    return fig


def _margins(opt_state: Any) -> np.ndarray | None:
    """Returns the margins of latents to thresholds, both above zero; None for none."""
    try:
        leaves = jax.tree.leaves(optimizers.threshold_margins(opt_state))
    except ValueError:  # the optimizer has no latents or no thresholds
        return None
    values = np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])
    finite = values[np.isfinite(values) & (values > 0)]
    return finite if finite.size else None


def save_plots(
    folder: pathlib.Path, lines: Sequence[Mapping[str, Any]], opt_state: Any
) -> list[pathlib.Path]:
    """Draws all plots of a run as PNG files and returns their paths.

    Without binary weights there are none of flips.

    Args:
      folder: where they go; made if it is not there.
      lines: the lines of the run's metrics file.
      opt_state: its last optimizer state.

    Raises:
      OSError: if a file cannot be written, or a link is in the place of the folder.
    """
    files.make_inner(folder)
    plots = {"learning.png": plot_learning(lines)}
    if "flip_ratio" in lines[0]:
        plots["flip_ratio.png"] = plot_flip_ratio(lines)
        # Not every optimizer counts flips.
        with contextlib.suppress(ValueError):
            plots["flip_counts.png"] = plot_flip_counts(opt_state)
    for name, fig in plots.items():
        figures.save(fig, folder / name)
    return [folder / name for name in plots]
