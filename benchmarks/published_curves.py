"""Tables and the figure of `published_loop`, from what it wrote."""

import numpy as np

from benchmarks import timing
from sgdat_jax.report import figures, statistics

# What is drawn, with the title of its panels and its unit.
MEASURES = {
    "test_accuracy": ("test accuracy (%)", 100),
    "flip_ratio": ("weights flipped per step (%)", 100),
}
# How each loop is drawn, the one in front last.
_STYLES = {
    "reordered": {"color": figures.PALE, "linewidth": 5, "label": "rounded otherwise"},
    "ours": {"color": figures.MAIN, "linewidth": 2, "label": "ours"},
    "published": {
        "color": figures.SECOND,
        "linewidth": 2,
        "linestyle": (0, (2, 2)),
        "label": "published",
    },
}


def told(row):
    """Returns a row of an epoch in a line."""
    equal = row["equal_to_published"]
    return (
        f"seed {row['seed']} epoch {row['epoch']} {row['loop']:<10}"
        f" train {row['train_loss']:.4f} {row['train_accuracy']:.2%}"
        f"  test {row['test_loss']:.4f} {row['test_accuracy']:.2%}"
        f"  flips {row['flip_ratio']:.3%}"
        + ("" if equal is None else f"  equal {equal:.2%}")
    )


def values(found, loop, key):
    """Returns a measure of a loop, of shape (seeds, epochs)."""
    return np.array(
        [
            [row[key] for row in result["epochs"] if row["loop"] == loop]
            for result in found
        ]
    )


def per_epoch(found):
    """Returns how far the loops are apart after each epoch, and how far the seeds."""
    test = {loop: values(found, loop, "test_accuracy") for loop in _STYLES}
    flips = {loop: values(found, loop, "flip_ratio") for loop in _STYLES}
    rows = []
    for place in range(test["ours"].shape[1]):
        row = {"epoch": place + 1}
        for loop in _STYLES:
            accuracy = test[loop][:, place]
            row[loop] = {
                "test_accuracy": accuracy.tolist(),
                "mean": float(accuracy.mean()),
                "range_over_seeds": float(np.ptp(accuracy)),
                "flip_ratio": float(flips[loop][:, place].mean()),
            }
        for loop in ("ours", "reordered"):
            apart = test[loop][:, place] - test["published"][:, place]
            row[f"{loop}_minus_published"] = {
                "test_accuracy": apart.tolist(),
                "mean": float(apart.mean()),
                "interval": statistics.mean_interval(apart),
                "equal_weights": values(found, loop, "equal_to_published")[
                    :, place
                ].tolist(),
            }
        rows.append(row)
    return rows


def show_epochs(rows):
    def points(numbers):
        return ", ".join(f"{100 * number:+.2f}" for number in numbers)

    timing.show(
        [
            {
                "epoch": str(row["epoch"]),
                "ours %": f"{row['ours']['mean']:.2%}",
                "published %": f"{row['published']['mean']:.2%}",
                "ours - published, by seed": points(
                    row["ours_minus_published"]["test_accuracy"]
                ),
                "reordered - published": points(
                    row["reordered_minus_published"]["test_accuracy"]
                ),
                "range over seeds": f"{100 * row['published']['range_over_seeds']:.2f}",
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
        for name, title in (("ours", "ours"), ("reordered", "reordered")):
            counts = [sum(step["differing"][name]) for step in steps]
            cell[f"weights of {title} that differ"] = ", ".join(map(str, counts))
        cells.append(cell)
    timing.show(cells, names=())


def plot(found):
    """Draws accuracy and flips of all loops over each other, a column per seed."""
    fig, grid = figures.panels(len(found), len(MEASURES))
    for row, (key, (title, scale)) in enumerate(MEASURES.items()):
        axes_of_row = grid[row * len(found) : (row + 1) * len(found)]
        for axes, result in zip(axes_of_row, found, strict=True):
            for loop, style in _STYLES.items():
                (numbers,) = scale * values([result], loop, key)
                epochs = range(1, len(numbers) + 1)
                axes.plot(epochs, numbers, marker=figures.marker(epochs), **style)
            axes.set_title(f"seed {result['about']['seed']}: {title}", loc="left")
            figures.label_epochs(axes, epochs)
        limits = [axes.get_ylim() for axes in axes_of_row]
        for axes in axes_of_row:
            axes.set_ylim(
                min(low for low, _ in limits), max(high for _, high in limits)
            )
    grid[0].legend(frameon=False, loc="lower right")
    about = found[0]["about"]
    figures.title(
        fig,
        f"BinaryNet at {about['width']:g} of the width, SGDAT, the same batches in "
        "our training program and in the published loop",
    )
    return fig


def summarize(found, folder):
    """Prints tables, writes ``summary.json`` and draws ``curves.png``."""
    rows = per_epoch(found)
    show_steps(found)
    show_epochs(rows)
    timing.write(folder / "summary.json", {"epochs": rows})
    content = figures.drawn(plot(found))
    figures.write({".png": content[".png"]}, folder / "curves.png")
