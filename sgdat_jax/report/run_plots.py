"""Plots of one run."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib import figure

from sgdat_jax import files, optimizers
from sgdat_jax.report import figures
from sgdat_jax.run_folder import formats

_Lines = Sequence[formats.EpochLine]


def plot_learning(lines: _Lines, subject: str = "") -> figure.Figure:
    """Draws loss and accuracy of training and test over the epochs.

    And those of the validation part, if there is one.

    Args:
      lines: the lines of a run's metrics file.
      subject: data set, network and optimizer, for the title.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> figure = report.plot_learning(runs[1].lines, "cifar10, Bop")
      >>> figure.savefig("learning.png")  # doctest: +SKIP
    """
    fig, (loss, accuracy) = figures.panels(2)
    epochs = [line["epoch"] for line in lines]
    parts = {"train": figures.GREY, "test": figures.MAIN}
    if "valid_loss" in lines[0]:
        parts["valid"] = figures.SECOND
    for part, color in parts.items():
        name = "validation" if part == "valid" else part
        style = {"color": color, "marker": figures.marker(epochs), "label": name}
        found: Any = lines  # whose keys are put together here
        loss.plot(epochs, [line[f"{part}_loss"] for line in found], **style)
        accuracy.plot(
            epochs, [100 * line[f"{part}_accuracy"] for line in found], **style
        )
    last = lines[-1]
    loss.set_title("cross-entropy (nats)", loc="left")
    accuracy.set_title(
        f"accuracy (%); test after the last epoch: {last['test_accuracy']:.2%}",
        loc="left",
    )
    for axes in (loss, accuracy):
        figures.label_epochs(axes, epochs)
        figures.label_ends(axes)
    figures.title(fig, subject)
    return fig


def plot_flip_ratio(lines: _Lines, subject: str = "") -> figure.Figure:
    """Draws the share of weights that a step flips, layer by layer over the epochs.

    Args:
      lines: the lines of a run's metrics file.
      subject: data set, network and optimizer, for the title.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> figure = report.plot_flip_ratio(runs[1].lines, "cifar10, Bop")
      >>> figure.savefig("flip_ratio.png")  # doctest: +SKIP
    """
    fig, (axes,) = figures.panels(1)
    epochs = [line["epoch"] for line in lines]
    names = list(lines[0]["flip_ratio_per_layer"])
    for name, color in zip(names, figures.colors(len(names)), strict=True):
        ratios = [line["flip_ratio_per_layer"][name] for line in lines]
        marker = figures.marker(epochs)
        axes.plot(epochs, ratios, marker=marker, color=color, label=name)
    axes.plot(
        epochs,
        [line["flip_ratio"] for line in lines],
        color="black",
        linestyle="--",
        marker=figures.marker(epochs),
        label="all binary weights",
    )
    every = [ratio for line in lines for ratio in line["flip_ratio_per_layer"].values()]
    figures.symlog(axes, [line["flip_ratio"] for line in lines])
    axes.set_ylim(None, 1.3 * max(every) or None)
    axes.set_title("share of weights flipped per step", loc="left")
    figures.label_epochs(axes, epochs)
    figures.label_ends(axes, 7.0 if len(names) > 8 else 9.0)
    figures.title(fig, subject)
    return fig


def plot_flip_counts(opt_state: Any, subject: str = "") -> figure.Figure:
    """Draws how often weights flipped, and how far latents are from their thresholds.

    The second picture is left out for an optimizer without thresholds above zero.

    Args:
      opt_state: the state of a binary optimizer, within whatever wraps it.
      subject: data set, network and optimizer, for the title.

    Raises:
      ValueError: if it holds no flip counts.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import report
      >>> params = {"dense": {"kernel": jnp.ones((2, 2))}}
      >>> tx = sj.sgdat()
      >>> gradients = {"dense": {"kernel": jnp.array([[1.0, 2.0], [-1.0, 0.0]])}}
      >>> _, state = tx.update(gradients, tx.init(params), params)
      >>> figure = report.plot_flip_counts(state)
      >>> figure.savefig("flip_counts.png")  # doctest: +SKIP
    """
    # Compiled whole: each operation by itself is a program for each shape.
    flips = jax.jit(optimizers.flip_counts)(opt_state)
    never = float(jax.jit(optimizers.silent_ratio)(flips).total)
    margins = _margins(opt_state)
    fig, axes = figures.panels(1 if margins is None else 2)
    leaves = optimizers.layers_of(flips)
    _draw_counts(axes[0], {k: np.asarray(v).ravel() for k, v in leaves.items()})
    axes[0].set_title(
        f"share of weights (%) by flips; {never:.0%} never flipped", loc="left"
    )
    if margins is not None:
        edges = np.geomspace(margins.min(), margins.max() * 1.0001, 50)
        axes[1].hist(margins, edges, color=figures.MAIN)
        axes[1].set_title("margin to the threshold", loc="left")
        axes[1].set(xlabel="|latent| / threshold", ylabel="weights", xscale="log")
        axes[1].set_ylim(0, 1.1 * axes[1].get_ylim()[1])  # its name above the bars
        figures.name_line(axes[1], 1.0, "threshold")
    figures.title(fig, subject)
    return fig


def _draw_counts(axes: Any, layers: Mapping[str, np.ndarray]) -> None:
    """Draws a table of layers by flips, whose cells are coloured by their share."""
    most = max(int(values.max()) for values in layers.values())
    used = 1 + max(i for i, low in enumerate(optimizers.FLIP_BINS) if low <= most)
    edges = [*optimizers.FLIP_BINS[:used], np.inf]
    shares = np.array(
        [100 * np.histogram(v, edges)[0] / v.size for v in layers.values()]
    )
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.imshow(shares, cmap=figures.MAP, aspect="auto", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share:
            text = f"{share:.0f}" if share >= 0.5 else "<0.5"
            color = "black" if share > 55 else "white"
            axes.text(column, row, text, ha="center", va="center", color=color,
                      fontsize="small")  # fmt: skip
    rotation = 45 if used > 8 else 0
    axes.set_xticks(range(used), figures.flip_bins(used), rotation=rotation)
    axes.set_yticks(range(len(layers)), list(layers))
    axes.set_xlabel("flips of a weight")


def _margins(opt_state: Any) -> np.ndarray | None:
    """Returns |latent| / threshold where both are above zero; None if there is none."""
    try:
        margins = jax.jit(optimizers.threshold_margins)(opt_state)
    except ValueError:  # the optimizer has no latents or no thresholds
        return None
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(margins)])
    finite = values[np.isfinite(values) & (values > 0)]
    return finite if finite.size else None


def save_plots(
    folder: pathlib.Path, lines: _Lines, opt_state: Any, subject: str = ""
) -> list[pathlib.Path]:
    """Draws all plots of a run as PNG and SVG files and returns their paths.

    Without binary weights there is no plot of flips.

    Args:
      folder: where they go; made if it is not there.
      lines: the lines of the run's metrics file.
      opt_state: its last optimizer state.
      subject: data set, network and optimizer, for the titles.

    Raises:
      OSError: if a file cannot be written, or a link is in the place of the folder.

    Example:
      >>> import pathlib
      >>> from sgdat_jax import report, training
      >>> fitted = training.fit(model, tx, dataset)  # doctest: +SKIP
      >>> folder = pathlib.Path("plots")
      >>> report.save_plots(folder, fitted.lines, fitted.opt_state)  # doctest: +SKIP
    """
    files.make_inner(folder)
    plots = {"learning.png": plot_learning(lines, subject)}
    if "flip_ratio" in lines[0]:
        plots["flip_ratio.png"] = plot_flip_ratio(lines, subject)
        # Not every optimizer counts flips.
        with contextlib.suppress(ValueError):
            plots["flip_counts.png"] = plot_flip_counts(opt_state, subject)
    return [
        path for name, fig in plots.items() for path in figures.save(fig, folder / name)
    ]
