"""Tables and the figure of `published_loop`, from what it wrote."""

import numpy as np

from benchmarks import timing
from sgdat_jax.report import figures, statistics

MEASURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "flip_ratio")
# What is drawn, with the title of its panels.
_PANELS = {
    "test_accuracy": "test accuracy (%)",
    "flip_ratio": "weights flipped per step (%)",
}
# How each loop is drawn, the one in front last.
_STYLES = {
    "ours": {"color": figures.MAIN, "linewidth": 4, "alpha": 0.6},
    "published": {
        "color": figures.SECOND,
        "linewidth": 1.5,
        "linestyle": "--",
        "marker": "o",
        "markersize": 4,
    },
}
# Pairs of loops whose weights are compared after the first steps.
_PAIRS = {
    "ours_published": "ours, published",
    "ours_rounded": "ours, published with Optax's corrections",
    "published_float64": "published, the same in float64",
}


def told(row):
    """Returns a row of an epoch in a line."""
    return (
        f"seed {row['seed']} epoch {row['epoch']} {row['loop']:<10}"
        f" train {row['train_loss']:.4f} {row['train_accuracy']:.2%}"
        f"  test {row['test_loss']:.4f} {row['test_accuracy']:.2%}"
        f"  flips {row['flip_ratio']:.3%}  equal weights {row['equal_weights']:.2%}"
    )


def values(found, loop, key):
    """Returns a measure of a loop, of shape (seeds, epochs that all seeds have)."""
    rows = [
        [row[key] for row in result["epochs"] if row["loop"] == loop]
        for result in found
    ]
    return np.array([row[: min(map(len, rows))] for row in rows])


def per_epoch(found):
    """Returns how far the loops are apart after each epoch, and how far the seeds."""
    measured = {
        loop: {key: values(found, loop, key) for key in (*_PANELS, "equal_weights")}
        for loop in _STYLES
    }
    rows = []
    for place in range(measured["ours"]["test_accuracy"].shape[1]):
        row = {"epoch": place + 1}
        for loop, arrays in measured.items():
            accuracy = arrays["test_accuracy"][:, place]
            row[loop] = {
                "test_accuracy": accuracy.tolist(),
                "mean": float(accuracy.mean()),
                "range_over_seeds": float(np.ptp(accuracy)),
                "flip_ratio": float(arrays["flip_ratio"][:, place].mean()),
            }
        ours, published = (np.array(row[loop]["test_accuracy"]) for loop in _STYLES)
        apart = ours - published
        row["difference"] = {
            "test_accuracy": apart.tolist(),
            "mean": float(apart.mean()),
            "interval": statistics.mean_interval(apart),
        }
        equal = measured["ours"]["equal_weights"][:, place]
        row["equal_weights"] = equal.tolist()
        rows.append(row)
    return rows


def show_epochs(rows):
    timing.show(
        [
            {
                "epoch": str(row["epoch"]),
                "ours %": f"{100 * row['ours']['mean']:.2f}",
                "published %": f"{100 * row['published']['mean']:.2f}",
                "differences, points": ", ".join(
                    f"{100 * apart:+.2f}"
                    for apart in row["difference"]["test_accuracy"]
                ),
                "range over seeds": f"{100 * row['ours']['range_over_seeds']:.2f}, "
                f"{100 * row['published']['range_over_seeds']:.2f}",
                "equal weights %": ", ".join(
                    f"{100 * equal:.1f}" for equal in row["equal_weights"]
                ),
            }
            for row in rows
        ],
        names=(),
    )


def show_steps(found):
    """Prints how many weights differ after each of the first steps, seed by seed."""
    cells = []
    for steps in zip(*(result["first_steps"] for result in found), strict=True):
        cell = {"step": str(steps[0]["step"])}
        for pair, title in _PAIRS.items():
            counts = [sum(step["differing"][pair]) for step in steps]
            cell[title] = ", ".join(map(str, counts))
        cells.append(cell)
    timing.show(cells, names=())


def plot(found):
    """Draws accuracy and flips of both loops over each other, a column per seed."""
    fig, grid = figures.panels(len(found), len(_PANELS))
    for row, (key, title) in enumerate(_PANELS.items()):
        axes_of_row = grid[row * len(found) : (row + 1) * len(found)]
        for axes, result in zip(axes_of_row, found, strict=True):
            for loop, style in _STYLES.items():
                (shares,) = values([result], loop, key)
                epochs = range(1, len(shares) + 1)
                line = {"marker": figures.marker(epochs)} | style
                axes.plot(epochs, 100 * shares, label=loop, **line)
            axes.set_title(f"seed {result['about']['seed']}: {title}", loc="left")
            figures.label_epochs(axes, epochs)
        limits = [axes.get_ylim() for axes in axes_of_row]
        for axes in axes_of_row:
            axes.set_ylim(min(low for low, _ in limits), max(top for _, top in limits))
    grid[0].legend(frameon=False, loc="lower right")
    width = found[0]["about"]["width"]
    figures.title(
        fig, f"BinaryNet, width {width:g}, SGDAT: both loops on the same batches"
    )
    return fig


def summarize(found, folder):
    """Prints tables, writes ``summary.json`` and draws ``curves.png``."""
    rows = per_epoch(found)
    show_steps(found)
    show_epochs(rows)
    seeds = [result["about"]["seed"] for result in found]
    timing.write(folder / "summary.json", {"seeds": seeds, "epochs": rows})
    content = figures.drawn(plot(found))
    figures.write({".png": content[".png"]}, folder / "curves.png")
