"""How do the paper's optimizers compare on CIFAR at a quarter of BinaryNet's width?

Trains what is not recorded yet, part by part, by the paper's recipes but for fewer
epochs and a tenth of the training images to pick the best one by; then writes tables
and pictures of all records. It can be interrupted at any time and started again.

    python -m benchmarks.cifar_study  # of data/cifar10/ and data/cifar100/, arrays
    python -m benchmarks.cifar_study --table  # of the records alone
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

from matplotlib import figure

from sgdat_jax import files, report
from sgdat_jax.experiments import sweep
from sgdat_jax.report import figures

RESULTS = pathlib.Path(__file__).parent / "results" / "cifar_study"
RUNS = pathlib.Path("runs/cifar_study")
_RECORDS = ("config.json", "metrics.jsonl", "times.jsonl", "result.json")
_TRIALS = ("sweep.json", "trials.jsonl")
_FOUR = ("sgd", "sgdat", "adam_star", "bop")
_OTHERS = ("sgd_star", "sgdm_star", "sgdm", "bop2nd_order", "sgdt", "sgdat_momentum")
_ROWS = (*_FOUR, *_OTHERS, "boat")
# The rows of the part of this name.
VARIANTS = """\
[sgdat_kept]
label = "SGDAT, flip counts kept"
optimizer = "sgdat"
reset_flips_every_epoch = false

[sgdat_compact]
label = "SGDAT, compact state"
optimizer = "sgdat"
layout = "compact"
"""
_RATES = ("1e-5", "1e-4", "1e-3")
_THRESHOLDS = ("0", "1e-8", "1e-7", "1e-6", "1e-5")


def _compare(rows: Sequence[str], epochs: int, seeds: int) -> list[str]:
    chosen = ["--optimizers", *rows] if rows else ["--rows", str(RUNS / "rows.toml")]
    numbers = ["--epochs", str(epochs), "--seeds", str(seeds)]
    return ["compare", *chosen, *numbers, "--diagnostics"]


def _sweep(optimizer: str) -> list[str]:
    grid = ["--learning-rate", *_RATES, "--threshold", *_THRESHOLDS]
    numbers = ["--epochs", "4", "--seeds", "2", "--models-at-once", "1"]
    return ["sweep", "--optimizer", optimizer, *grid, *numbers]


# Name of the folder, data set and command, in the order in which they are trained.
PARTS = {
    "cifar10": ("cifar10", _compare(_ROWS, 15, 3)),
    "cifar100": ("cifar100", _compare(_FOUR, 15, 3)),
    "cifar10_50": ("cifar10", _compare(_FOUR, 50, 1)),
    "variants": ("cifar10", _compare((), 15, 3)),
    "thresholds/sgdat": ("cifar10", _sweep("sgdat")),
    "thresholds/sgdt": ("cifar10", _sweep("sgdt")),
}
# Pictures of `report.plot_comparison` that are kept.
_PICTURES = {
    "cifar10": ("accuracy", "accuracy_curves", "silence_and_oscillation"),
    "cifar100": ("accuracy",),
    "cifar10_50": ("accuracy_curves", "flip_ratio"),
}


def command(part: str) -> list[str]:
    """Returns the words of the command ``sgdat-jax`` that trains a part."""
    dataset, words = PARTS[part]
    shared = ["--recipe", f"{dataset}-binarynet", "--dataset", f"data/{dataset}/"]
    shared += ["--width", "0.25", "--validation-share", "0.1"]
    return [*words, *shared, "--run-dir", str(RUNS / part)]


def train(part: str) -> None:
    """Trains what is left of a part, and records what is finished."""
    copy_records(RESULTS / part, RUNS / part)
    files.write_text(RUNS / "rows.toml", VARIANTS)
    try:
        words = [sys.executable, "-m", "sgdat_jax", *command(part)]
        subprocess.run(words, check=True)
    finally:
        copy_records(RUNS / part, RESULTS / part)


def copy_records(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies what tells of finished runs, or of a sweep, that the target lacks."""
    for result in source.glob("*/*/result.json"):
        folder = target / result.parent.relative_to(source)
        if not (folder / result.name).exists():
            _copy(result.parent, folder, _RECORDS)
    if (source / _TRIALS[0]).exists():
        _copy(source, target, _TRIALS)


def _copy(source: pathlib.Path, target: pathlib.Path, names: Sequence[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def groups_of(*folders: str) -> list[report.Group]:
    """Returns the recorded runs of folders of results."""
    runs, _ = report.read_runs([RESULTS / folder for folder in folders])
    return report.group_runs(runs)


def comparison(groups: Sequence[report.Group], *references: str) -> str:
    """Returns a table of runs, and their differences to rows whose labels begin so."""
    text = report.comparison_markdown(report.compare_runs(groups))
    for reference in references:
        label = next(g.label for g in groups if g.label.split(",")[0] == reference)
        differences = report.compare_pairs(groups, label)
        found = report.differences_markdown(differences)
        text += f"\nBest epochs by validation, minus {label}, seed by seed:\n\n{found}"
    return text


def texts() -> Iterator[tuple[str, str]]:
    """Yields files of tables and their content."""
    yield "cifar10/comparison.md", comparison(groups_of("cifar10"), "SGD", "Adam*")
    yield "cifar100/comparison.md", comparison(groups_of("cifar100"), "SGD", "Adam*")
    yield "cifar10_50/comparison.md", comparison(groups_of("cifar10_50"))
    groups = groups_of("cifar10/sgdat", "variants")
    yield "variants/comparison.md", comparison(groups, "SGDAT")


def plot_flips() -> figure.Figure:
    """Draws accuracy over flips, with adaptive and with fixed thresholds."""
    fig, (axes,) = figures.panels(1)
    kinds = {"sgdat": "adaptive (SGDAT)", "sgdt": "fixed (SGDT)"}
    marks = zip(kinds, figures.colors(2), "os", strict=True)
    for optimizer, color, mark in marks:
        rows = report.rank_settings(sweep.read(RESULTS / "thresholds" / optimizer))
        flips = [row["flips_per_weight"]["mean"] for row in rows]
        reached = [100 * row["test_accuracy"]["mean"] for row in rows]
        axes.plot(flips, reached, mark, color=color, label=kinds[optimizer], alpha=0.7)
    axes.set(xscale="log", xlabel="flips per weight", ylabel="test accuracy (%)")
    axes.legend(title="threshold", loc="lower right")
    figures.title(fig, "CIFAR-10, four epochs: a point for each rate and threshold")
    return fig


def write() -> None:
    """Writes the tables and pictures of all records."""
    for name, text in texts():
        files.write_text(RESULTS / name, text)
    for part, names in _PICTURES.items():
        drawn = report.plot_comparison(groups_of(part))
        for name in names:
            _save(drawn[name], f"{part}/{name}.png")
    for optimizer in ("sgdat", "sgdt"):
        trials = sweep.read(RESULTS / "thresholds" / optimizer)
        fig = report.plot_heat_map(report.rank_settings(trials))
        _save(fig, f"thresholds/{optimizer}.png")
    _save(plot_flips(), "thresholds/flips.png")


def _save(fig: figure.Figure, name: str) -> None:
    (RESULTS / name).write_bytes(figures.drawn(fig)[".png"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    if not options.table:
        for part in options.parts:
            train(part)
    write()


if __name__ == "__main__":
    main()
