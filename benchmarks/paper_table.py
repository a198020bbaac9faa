"""Does the library reach the accuracies of the SGDAT paper's table?

Trains any part of it, by the recipes of `sgdat_jax.experiments.recipes`: methods x data
sets x networks x seeds. Each run leaves one JSON file under ``results/paper_table``,
and all of them together the table ``README.md`` there, beside the published numbers.
Start it again to go on: runs that finished or diverged are not repeated, and one that
was interrupted, or that ``--minutes`` ended, goes on where it was.

    python benchmarks/paper_table.py --datasets cifar10 --seeds 3 --minutes 55 \
        --data cifar10=data/cifar10/

``--data`` names a folder of arrays (see `sgdat_jax.data.arrays`), for machines without
tensorflow-datasets; it needs a slash in its path. ``--set epochs=2 width=0.25`` tries
the program out, in a folder of results of its own (``--out``).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sgdat_jax import files, names, run_folder
from sgdat_jax.data import dataset as dataset_lib
from sgdat_jax.experiments import configs, methods, recipes, setup
from sgdat_jax.training import interruption, loop, runs

_OUT = pathlib.Path(__file__).parent / "results" / "paper_table"
_DATASETS = ("cifar10", "cifar100", "tiny_imagenet")
_MODELS = ("binarynet", "resnet18")

# Top-1 accuracy in percent on `_DATASETS`: of Table 2 of Shan et al., Neurocomputing
# 555, 126431, 2023, and of an independent rerun of 2026, one seed. The table names no
# network; it is taken for BinaryNet, which the rerun's numbers fit.
_PUBLISHED: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "sgd_star": ((81.42, 55.55, 34.12), ()),
    "sgdm_star": ((84.87, 59.51, 36.26), ()),
    "adam_star": ((89.16, 63.66, 45.05), (89.74, 65.27, 45.64)),
    "sgd": ((88.44, 63.56, 44.67), (90.04, 64.42, 46.69)),
    "sgdm": ((89.63, 64.55, 45.68), (89.88, 65.23, 45.88)),
    "bop": ((88.74, 63.46, 44.74), (89.08, 63.91, 44.95)),
    "bop2nd_order": ((89.44, 64.37, 46.54), (89.74, 64.70, 46.17)),
    "sgdt": ((89.48, 62.25, 43.41), (89.17, 64.57, 44.94)),
    "sgdat": ((89.67, 65.40, 46.78), (90.15, 65.50, 46.67)),
    "sgdat_momentum": ((89.73, 65.05, 47.20), ()),
}
_PUBLISHED_MODEL = "binarynet"


class Experiment(NamedTuple):
    """A cell of the table and a seed."""

    dataset: str
    model: str
    method: str
    seed: int

    @property
    def recipe(self) -> str:
        """Name of its recipe."""
        return f"{self.dataset}-{self.model}-{self.method}"

    @property
    def name(self) -> str:
        """Name of its file and folder."""
        return f"{self.recipe}-seed{self.seed}"


class Clock(loop.Watcher):
    """Prints each epoch, and ends a run when time is up.

    Args:
      name: what to call the run.
      deadline: by `time.perf_counter`, in seconds.
    """

    def __init__(self, name: str, deadline: float):
        self._name = name
        self._deadline = deadline

    def epoch_ended(self, line: dict[str, Any]) -> None:
        """Prints the epoch."""
        print(
            f"{self._name} epoch {line['epoch']}: {line['test_accuracy']:.2%}, "
            f"{line['seconds']:.1f} s",
            flush=True,
        )

    def check(self) -> None:
        """Raises Interrupted when time is up."""
        if time.perf_counter() > self._deadline:
            raise interruption.Interrupted("--minutes are over")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is still to do and writes the table."""
    options = _parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        deadline = time.perf_counter() + 60 * options.minutes
        try:
            _train_all(options, deadline)
        except interruption.Interrupted as interrupted:
            print(f"{interrupted}: start again to go on")
        except (ValueError, TypeError) as error:
            raise SystemExit(f"paper_table.py: error: {error}") from None
    try:
        _write_tables(options.out)
    except ModuleNotFoundError as error:
        print(f"no table, as {error.name} is not installed: use --table elsewhere")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, choices, default in (
        ("datasets", _DATASETS, _DATASETS),
        ("models", _MODELS, [_PUBLISHED_MODEL]),
        ("methods", tuple(methods.PAPER), tuple(methods.PAPER)),
    ):
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=default)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each cell")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=FOLDER", type=_pair
    )
    parser.add_argument("--data-dir", help="as in sgdat-jax train")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="OPTION=VALUE", type=_pair
    )
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--runs", type=pathlib.Path, default="runs/paper_table")
    parser.add_argument("--out", type=pathlib.Path, default=_OUT)
    parser.add_argument("--table", action="store_true", help="write the table alone")
    options = parser.parse_args(arguments)
    if options.set and options.out.resolve() == _OUT.resolve():
        parser.error("--set needs an --out of its own, apart from the paper's runs")
    return options


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {word!r}")
    return name, value


def _experiments(options: argparse.Namespace) -> Iterator[Experiment]:
    """Yields all experiments, every cell of the table once before its second seed."""
    for seed in range(options.seed, options.seed + options.seeds):
        for dataset in options.datasets:
            for model in options.models:
                for method in options.methods:
                    yield Experiment(dataset, model, method, seed)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of ``--set``, whose values are JSON or text."""
    overrides = {}
    for name, value in options.set:
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        overrides[name] = tuple(read) if isinstance(read, list) else read
    return overrides


def _config(experiment: Experiment, options: argparse.Namespace) -> configs.TrainConfig:
    settings = names.look_up("recipe", recipes.RECIPES, experiment.recipe)
    places = {"data_dir": options.data_dir}
    if experiment.dataset in dict(options.data):
        places["dataset"] = dict(options.data)[experiment.dataset]
    return configs.TrainConfig(**settings | places | _overrides(options))


def _train_all(options: argparse.Namespace, deadline: float) -> None:
    """Trains what is still to do.

    Raises:
      interruption.Interrupted: when time is up.
      ValueError: if a setting is wrong or a data set is not there.
    """
    data: dict[str, dataset_lib.Dataset] = {}
    plans: dict[str, runs.Plan] = {}  # by recipe: its seeds share a compiled program
    for experiment in _experiments(options):
        file = options.out / f"{experiment.name}.json"
        if file.exists():
            _check_same(file, _overrides(options))
            continue
        clock = Clock(experiment.name, deadline)
        clock.check()
        if experiment.recipe not in plans:
            settings = _config(experiment, options)
            if experiment.dataset not in data:
                data[experiment.dataset] = setup.load(settings)
            plan = setup.plan(settings, data[experiment.dataset])
            plans[experiment.recipe] = plan
        record = _record(experiment, plans[experiment.recipe], options, clock)
        files.write_json(file, record)


def _record(
    experiment: Experiment,
    plan: runs.Plan,
    options: argparse.Namespace,
    clock: Clock,
) -> dict[str, Any]:
    """Trains one run, unless it diverged before, and returns what its file holds."""
    folder = options.runs / experiment.name
    if run_folder.is_finished(folder):
        raise ValueError(f"{folder} holds a finished run; choose other --runs.")
    try:
        measured = _train(plan, experiment.seed, folder, clock)
    except FloatingPointError as error:
        print(f"{experiment.name}: {error}")
        diverged = run_folder.read_diverged(folder)
        measured = {"epochs": plan.config.epochs, "diverged": diverged}
    return {
        **experiment._asdict(),
        "recipe": experiment.recipe,
        "overrides": _overrides(options),
        **measured,
        "model": experiment.model,
        "machine": f"{platform.platform()}, {os.cpu_count()} CPU cores",
        "config": run_folder.read_json(folder, run_folder.CONFIG),
    }


def _train(
    plan: runs.Plan, seed: int, folder: pathlib.Path, clock: Clock
) -> dict[str, Any]:
    """Trains one run and returns what it reached.

    Raises:
      FloatingPointError: if it diverges, or did before.
    """
    if run_folder.has_diverged(folder):
        config = dataclasses.replace(plan.config, seed=seed)
        run_folder.check_same(
            folder, run_folder.read_config(folder, configs.TrainConfig), config
        )
        raise FloatingPointError(f"diverged before, in {folder}")
    run = runs.go_on(plan, seed, folder)
    run, result = loop.train(run, clock, clock.check)
    lines = run_folder.read_metrics(folder)
    return {
        **result,
        "choices": result["model"],
        "seconds_per_epoch": run_folder.seconds_per_epoch(lines),
        "test_accuracies": [line["test_accuracy"] for line in lines],
    }


def _check_same(file: pathlib.Path, overrides: Mapping[str, Any]) -> None:
    found = json.loads(file.read_text())["overrides"]
    if found != json.loads(json.dumps(overrides)):
        raise SystemExit(
            f"{file} is of a run with --set {found}, not {overrides}: choose another "
            "--out and --runs"
        )


def _write_tables(folder: pathlib.Path) -> None:
    """Writes the table of all runs of a folder."""
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    text = tables(records)
    files.write_text(folder / "README.md", text)
    print(text)


def tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table for each network and data set, as Markdown.

    Args:
      records: what the files of the runs hold.
    """
    # Plots come with the reports: training alone needs no matplotlib.
    from sgdat_jax import report

    parts = [
        "# Accuracies of the SGDAT paper's table\n",
        f"{report.tables.selection(['test'])}\n",
    ]
    for model in _MODELS:
        for place, dataset in enumerate(_DATASETS):
            of_table = [
                r for r in records if (r["model"], r["dataset"]) == (model, dataset)
            ]
            if of_table:
                network = recipes.TASKS[f"{dataset}-{model}"]["model"]
                parts.append(f"## {network} on {dataset}\n")
                rows = [_row(name, place, model, of_table) for name in methods.PAPER]
                parts.append(report.tables.markdown([_HEADER, *rows]))
                parts.append(_footnote(of_table))
    return "\n".join(parts)


_HEADER = (
    "optimizer",
    "paper (%)",
    "rerun 2026 (%)",
    "last epoch (%)",
    "best epoch (%)",
    "runs",
    "s/epoch",
)


def _row(
    method: str, place: int, model: str, records: Sequence[Mapping[str, Any]]
) -> list[str]:
    from sgdat_jax import report

    published = ["", ""]
    if model == _PUBLISHED_MODEL:
        published = [f"{v[place]:.2f}" if v else "" for v in _PUBLISHED[method]]
    runs = [record for record in records if record["method"] == method]
    finished = [run for run in runs if "diverged" not in run]
    last, best, seconds = (
        report.tables.format_spread(report.tables.spread(finished, key), ".2f", scale)
        for key, scale in (
            ("test_accuracy", 100),
            ("best_test_accuracy", 100),
            ("seconds_per_epoch", 1),
        )
    )
    counts = {"runs": len(runs) or "", "diverged": len(runs) - len(finished)}
    label = methods.PAPER[method].label
    return [label, *published, last, best, report.tables.format_runs(counts), seconds]


def _footnote(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns what the runs of a table have been run with and on."""
    changed = sorted({json.dumps(r["overrides"]) for r in records} - {"{}"})
    parts = {
        "Epochs": sorted({str(r["epochs"]) for r in records}, key=int),
        "Devices": sorted({r["device"] for r in records if "device" in r}),
        "Not as in the paper": changed,
    }
    sentences = (f"{key}: {', '.join(found)}." for key, found in parts.items() if found)
    return " ".join(sentences) + "\n"


if __name__ == "__main__":
    main()
