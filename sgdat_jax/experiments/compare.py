"""Many runs in one folder: several optimizers and seeds on the same task."""

import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from sgdat_jax import files, optimizers, run_folder
from sgdat_jax.data import dataset as dataset_lib
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import interruption, loop, runs


class Comparison(NamedTuple):
    """A comparison that is set up."""

    config: configs.CompareConfig
    dataset: sources.Dataset
    todo: list[list[configs.TrainConfig]]  # unfinished runs, by method
    total: int  # runs, finished ones included
    lock: Any  # of the folder, until all is trained


class Outcome(NamedTuple):
    """How one run of a comparison ended."""

    config: configs.TrainConfig
    result: dict[str, Any] | None  # None if it diverged


def set_up(config: configs.CompareConfig) -> Comparison:
    """Loads the images, looks for finished runs and makes the folders of the others.

    Raises:
      ValueError: if the config does not fit the images, if no weight is binary, if a
        run folder holds anything but a run with the same settings and data, or if it
        cannot be written or another process works on it. Nothing is left on disk then.
    """
    run_folder.check_path(config.folder)
    if (config.folder / run_folder.CONFIG).exists():
        raise ValueError(f"run_dir must be no folder of a run, got {config.folder}.")
    dataset = setup.load(config)
    config = setup.settle(config, dataset)
    seeds = range(config.seed, config.seed + config.seeds)
    runs = [
        [config.run(method, seed) for seed in seeds]
        for method in dict.fromkeys(config.optimizers)
    ]
    data = dataset_lib.fingerprint(dataset)
    todo = [[r for r in of_method if not _is_finished(r, data)] for of_method in runs]
    network = setup.spec_of(config, dataset).shapes()
    params = nnx.state(network, nnx.Param)
    if not jax.tree.leaves(optimizers.select_binary(params, params)):
        raise ValueError(
            "A comparison is of binary optimizers, but full_precision leaves no layer "
            f"binary, got {config.full_precision}."
        )
    folders = [pathlib.Path(str(run.run_dir)) for run in itertools.chain(*todo)]
    run_folder.check_inner(config.folder, folders)
    made = files.make([config.folder, *folders])
    try:
        lock = run_folder.lock(config.folder)
    except (ValueError, OSError):
        files.remove_empty(made)
        raise
    return Comparison(
        config,
        dataset,
        todo=[of_method for of_method in todo if of_method],
        total=sum(map(len, runs)),
        lock=lock,
    )


def train_all(
    comparison: Comparison,
    watch: Callable[[runs.Run], Any],
    check: interruption.Check = interruption.never,
) -> Iterator[Outcome]:
    """Trains what is still to do, and yields after each run.

    A run that was interrupted goes on where its state was saved. A run that diverges
    has ended as well, and the next one begins.

    Args:
      comparison: what `set_up` returns.
      watch: gives a context manager of a `loop.Watcher` for each run.
      check: as in `loop.train`.
    """
    try:
        for runs in comparison.todo:
            # One compiled program for all seeds of a method.
            plan = setup.plan(runs[0], comparison.dataset)
            for config in runs:
                yield _train(plan, config, watch, check)
    finally:
        comparison.lock.release()


def _train(
    plan: runs.Plan,
    config: configs.TrainConfig,
    watch: Callable[[runs.Run], Any],
    check: interruption.Check,
) -> Outcome:
    run = runs.go_on(plan, config.seed, pathlib.Path(str(config.run_dir)))
    try:
        with watch(run) as watcher:
            return Outcome(config, loop.train(run, watcher, check)[1])
    except FloatingPointError:
        return Outcome(config, None)


def _is_finished(config: configs.TrainConfig, data: Mapping[str, str]) -> bool:
    """Returns whether a run need not be done, if its folder is in order.

    Args:
      config: of the run.
      data: fingerprint of the data set.
    """
    folder = pathlib.Path(str(config.run_dir))
    if run_folder.is_empty(folder):
        return False
    run_folder.check_same(
        folder, run_folder.read_config(folder, configs.TrainConfig), config
    )
    recorded = run_folder.read_data(folder)
    run_folder.check_data(folder / run_folder.CONFIG, recorded, data, allow=None)
    if run_folder.has_diverged(folder):
        return True
    if not run_folder.is_finished(folder):
        return False
    run_folder.read_result(folder)
    return True
