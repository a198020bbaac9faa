"""Recorded runs, read from their folders and grouped by method."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sgdat_jax import run_folder
from sgdat_jax.experiments import configs, methods
from sgdat_jax.options import HOUSEKEEPING, PLACEMENT, options_of
from sgdat_jax.run_folder import formats
from sgdat_jax.training import settings


class Run(NamedTuple):
    """A run that has ended, as its folder has it."""

    folder: pathlib.Path
    config: settings.Settings  # of the command, or of `training.fit`
    lines: list[formats.EpochLine]  # one per epoch; none if it diverged
    result: dict[str, Any]  # if it diverged, in which epoch and with which loss
    diverged: bool = False
    data: Mapping[str, str] | None = None  # fingerprint; former versions have none


class Group(NamedTuple):
    """Runs that differ in nothing but the seed."""

    label: str
    runs: list[Run]  # without those that diverged
    diverged: Sequence[Run] = ()

    @property
    def config(self) -> settings.Settings:
        """What all runs have in common, with the seed of one of them."""
        return next(iter((*self.runs, *self.diverged))).config

    @property
    def epochs(self) -> np.ndarray:
        """Numbers of the epochs, shape (epochs,)."""
        return np.array([line["epoch"] for line in self.runs[0].lines])

    def values(self, key: str) -> np.ndarray:
        """Returns an entry of all lines, shape ``(runs, epochs, ...)``, float64."""
        found: Any = [run.lines for run in self.runs]
        lines = [[line[key] for line in lines] for lines in found]
        return np.array(lines, np.float64)

    def results(self, key: str) -> np.ndarray:
        """Returns an entry of all runs' results, shape ``(runs, ...)``, float64."""
        return np.array([run.result[key] for run in self.runs], np.float64)


# A network without binary weights lacks these.
_FLIP_LINE_KEYS = ("flip_ratio", "flip_ratio_per_layer")
_FLIP_RESULT_KEYS = ("flips_per_weight",)
# Runs that differ in nothing else share a row.
_NO_SETTINGS = options_of(configs.TrainConfig, HOUSEKEEPING, PLACEMENT) | {
    "seed",
    "diagnostics",
}


def dataset_of(config: settings.Settings) -> str:
    """Returns the name of the data set of a run, by the command or by `fit`."""
    return str(getattr(config, "dataset", ""))


def model_of(config: settings.Settings) -> str:
    """Returns the name of the network of a run, by the command or by `fit`."""
    return str(getattr(config, "model", None) or "")


def subject_of(config: settings.Settings) -> list[str]:
    """Returns data set (the last part of a folder's path) and network, for titles.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> report.subject_of(runs[0].config)
      ['cifar10', 'BinaryNet']
    """
    dataset = dataset_of(config)
    if "/" in dataset:
        dataset = pathlib.PurePath(dataset).name
    return [dataset, model_of(config)]


def read_runs(paths: Iterable[str | pathlib.Path]) -> tuple[list[Run], list[str]]:
    """Reads runs that have ended.

    Args:
      paths: folders of runs, or folders that hold such folders at any depth.

    Returns:
      The runs in the order of their folders, those that diverged included, and a line
      for each folder that was skipped since it is damaged, unfinished, or repeats
      another.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> [(run.config.optimizer, run.config.seed) for run in runs]
      [('adam', 0), ('bop', 0), ('sgd', 0), ('sgdat', 0)]
    """
    runs: list[Run] = []
    skipped = []
    known: dict[tuple[Any, ...], pathlib.Path] = {}
    for folder in _run_folders(paths):
        try:
            run = _read_run(folder)
            key = (_settings(run.config), run.config.seed)
            if key in known:
                raise ValueError(_repeats(folder, run.config, known[key]))
        except ValueError as error:
            skipped.append(str(error))
        else:
            known[key] = folder
            runs.append(run)
    return runs, skipped


def _repeats(
    folder: pathlib.Path, config: settings.Settings, other: pathlib.Path
) -> str:
    text = f"{folder} repeats the run in {other}"
    if isinstance(config, configs.TrainConfig):
        return f"{text}."
    return (
        f"{text}: give each method of `fit` a `label` of its own, got {config.label!r}."
    )


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups runs by everything but the seed, in the order of their first runs.

    Raises:
      ValueError: if there are no runs, or runs of different data sets, or of one whose
        images or labels have changed between runs of a group.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> groups[1].label, groups[1].values("test_accuracy").shape  # runs, epochs
      ('Bop', (1, 90))
    """
    if not runs:
        raise ValueError("There must be at least one finished run.")
    dataset = dataset_of(runs[0].config)
    other = next((r for r in runs if dataset_of(r.config) != dataset), None)
    if other:
        raise ValueError(
            f"The runs must have one data set, got {dataset} in {runs[0].folder} and "
            f"{dataset_of(other.config)} in {other.folder}."
        )
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        of_group = grouped.setdefault(_settings(run.config), [])
        _check_data(run, of_group)
        of_group.append(run)
    groups = list(grouped.values())
    labels = _labels([members[0].config for members in groups])
    return [
        Group(
            label,
            [run for run in members if not run.diverged],
            [run for run in members if run.diverged],
        )
        for label, members in zip(labels, groups, strict=True)
    ]


def _check_data(run: Run, others: Sequence[Run]) -> None:
    """Raises ValueError if a run has other data than those that it belongs to."""
    for other in others:
        if None in (run.data, other.data) or run.data == other.data:
            continue
        raise ValueError(
            f"Runs that differ in their seed must have the same images and labels, got "
            f"others in {run.folder} than in {other.folder}."
        )


def _run_folders(paths: Iterable[str | pathlib.Path]) -> list[pathlib.Path]:
    folders: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if (path / run_folder.CONFIG).exists():
            folders.append(path)
            continue
        below = sorted(file.parent for file in path.rglob(run_folder.CONFIG))
        folders.extend(below or [path])
    return list(dict.fromkeys(folders))


def _read_run(folder: pathlib.Path) -> Run:
    config = _read_config(folder)
    data = run_folder.read_data(folder)
    if run_folder.has_diverged(folder):
        diverged = run_folder.read_diverged(folder)
        return Run(folder, config, [], diverged, diverged=True, data=data)
    result = run_folder.read_result(folder)
    lines = run_folder.read_metrics(folder)
    model = result.get("model")
    is_binary = not isinstance(model, dict) or model.get("binary_layers") != []
    for name, entries, keys in (
        (run_folder.RESULT, [result], is_binary * _FLIP_RESULT_KEYS),
        (run_folder.METRICS, lines, is_binary * _FLIP_LINE_KEYS),
    ):
        missing = next((k for k in keys for entry in entries if k not in entry), None)
        if missing:
            raise ValueError(f"{folder / name} has no {missing}.")
    if len(lines) != result["epochs"]:
        raise ValueError(
            f"{folder / run_folder.METRICS} must have a line for each of the "
            f"{result['epochs']} epochs, got {len(lines)}."
        )
    return Run(folder, config, lines, result, data=data)


def _read_config(folder: pathlib.Path) -> settings.Settings:
    # `training.fit` gets its optimizer as an object, so its config has no name for it.
    if "optimizer" in run_folder.read_json(folder, run_folder.CONFIG):
        return run_folder.read_config(folder, configs.TrainConfig)
    from sgdat_jax.training import fitting

    return run_folder.read_config(folder, fitting.FitConfig)


def _names(kind: type[settings.Settings]) -> tuple[str, ...]:
    """Returns what else than the seed makes runs of a kind differ."""
    return tuple(f.name for f in dataclasses.fields(kind) if f.name not in _NO_SETTINGS)


def _settings(config: settings.Settings) -> tuple[Any, ...]:
    return (
        type(config).__name__,
        config.label,
        *(getattr(config, name) for name in _names(type(config))),
    )


def _labels(found: Sequence[settings.Settings]) -> list[str]:
    """Returns a label per group: its method, and settings by which groups differ."""
    names = [_method(config) for config in found]
    return [
        " ".join([name, *_differences(config, name, found, names)])
        for config, name in zip(found, names, strict=True)
    ]


def _method(config: settings.Settings) -> str:
    if not isinstance(config, configs.TrainConfig):
        return config.label or f"{model_of(config)} by fit"
    defaults = dataclasses.asdict(configs.TrainConfig())
    return methods.label_of(dataclasses.asdict(config), defaults)


def _differences(
    config: settings.Settings,
    name: str,
    found: Sequence[settings.Settings],
    names: Sequence[str],
) -> list[str]:
    same_method = [c for c, n in zip(found, names, strict=True) if n == name]
    differences = []
    for field in _names(type(config)):
        if field in methods.FIELDS:
            continue
        # A method may have a learning rate of its own for the real-valued parameters.
        others = same_method if field == "real_learning_rate" else found
        value = getattr(config, field)
        if any(getattr(other, field, value) != value for other in others):
            differences.append(f"{field}={value}")
    return differences


def settings_that_differ(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Returns the settings in which groups differ, with the value of each group.

    Args:
      groups: what `group_runs` returns; a group of `fit` lacks what only the command
        has: None.
    """
    kinds = [_names(type(group.config)) for group in groups]
    values = {
        name: [getattr(group.config, name, None) for group in groups]
        for name in dict.fromkeys(name for names in kinds for name in names)
    }
    return {k: v for k, v in values.items() if any(other != v[0] for other in v)}


def shared_settings(groups: Sequence[Group]) -> dict[str, Any]:
    """Returns the settings that all groups have in common."""
    differ = settings_that_differ(groups)
    config = groups[0].config
    return {
        name: getattr(config, name)
        for name in _names(type(config))
        if name not in differ
    }
