"""Your own optimizer beside SGDAT on your own images: seeds, a table and plots.

Each run of `sgdat_jax.training.fit` leaves a folder; `sgdat_jax.report` makes tables
and figures of folders. Runs with one ``label`` make a row: give each method its own.
"""

import pathlib

import numpy as np
import optax
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import report, training
from sgdat_jax.data.dataset import Dataset

METHODS = {
    "SGDAT": lambda: sj.sgdat(1e-3, threshold=1e-6),
    "mine": lambda: optax.chain(optax.ema(0.9), sj.sgdat(1e-3, threshold=1e-6)),
}


class Net(nnx.Module):
    """A binary convolution between two real-valued layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(16, rngs=rngs)
        self.binary = sj.BinaryConv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, rngs=rngs)
        self.last = nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, images):
        x = self.norm1(self.first(images))
        return self.last(self.norm2(self.binary(x)).mean((1, 2)))


def images() -> Dataset:
    """Noise with a brighter corner; CIFAR-10 in four arrays goes here likewise."""
    rng = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % 4
        pixels = rng.integers(0, 200, (count, 8, 8, 3))
        for label, (row, column) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
            pixels[labels == label, row : row + 4, column : column + 4] += 50
        return pixels.astype(np.uint8), labels.astype(np.int32)

    return Dataset("corners", *part(512), *part(128), ("a", "b", "c", "d"))


if __name__ == "__main__":
    dataset = images()
    for label, make in METHODS.items():
        for seed in range(3):
            model = Net(nnx.Rngs(seed))  # weights; the seed of fit orders the images
            tx = sj.partition_binary(model, binary=make(), real=optax.adam(1e-2))
            training.fit(
                model,
                tx,
                dataset,
                epochs=4,
                seed=seed,
                label=label,
                run_dir=pathlib.Path("study", label, f"seed{seed}"),
                resume=True,  # what has finished is not trained again
            )
    runs, skipped = report.read_runs(["study"])
    groups = report.group_runs(runs)
    print(report.comparison_markdown(report.compare_runs(groups)))
    # Tables (.md, .tex for booktabs, .csv, .json), plots (PNG, SVG) and report.html.
    report.write_comparison("study", groups, reference="SGDAT")
    report.plot_accuracy(groups).savefig("accuracy.pdf")
    assert not skipped
    assert sorted(group.label for group in groups) == sorted(METHODS)
    assert all(len(group.runs) == 3 for group in groups)
