"""Draws the README's figure from the recorded comparison: ``python docs/figure.py``."""

import json
import pathlib

from matplotlib import figure

_ROOT = pathlib.Path(__file__).parents[1]
_RESULTS = _ROOT / "benchmarks" / "results" / "mnist_comparison" / "comparison.json"
_OUT = _ROOT / "docs" / "images" / "flips-and-accuracy.png"
_OTHERS, _OURS = "#7a7f87", "#0b6e99"


def draw(rows: list[dict]) -> figure.Figure:
    """Returns flips and accuracies side by side, a line for each optimizer."""
    fig = figure.Figure(figsize=(8, 2.3), layout="constrained", dpi=150)
    left, right = fig.subplots(1, 2, sharey=True)
    labels = [row["label"] for row in rows]
    colours = [_OURS if label == "SGDAT" else _OTHERS for label in labels]
    flips = [row["flips_per_weight"]["mean"] for row in rows]
    bars = left.barh(labels, flips, color=colours, height=0.6)
    left.bar_label(bars, [f"{f:.1f}" for f in flips], padding=3)
    left.set(title="flips per weight", xlim=(0, 1.15 * max(flips)))
    for label, row, colour in zip(labels, rows, colours, strict=True):
        mean, std = (100 * row["test_accuracy"][key] for key in ("mean", "std"))
        right.errorbar(mean, label, xerr=std, fmt="o", color=colour, capsize=3)
        right.annotate(
            f"{mean:.2f} ± {std:.2f}",
            (mean - std, label),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
        )
    right.set(title="test accuracy after 3 epochs, MNIST (%)", xlim=(86, 101))
    left.invert_yaxis()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(left=False)
    return fig


if __name__ == "__main__":
    draw(json.loads(_RESULTS.read_text())["rows"]).savefig(_OUT)
