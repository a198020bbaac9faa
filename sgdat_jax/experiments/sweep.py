"""Many models with other hyperparameters, at once in one compiled program."""

import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax import cpu, files, run_folder
from sgdat_jax.experiments import configs, setup
from sgdat_jax.options import HOUSEKEEPING, PLACEMENT, options_of
from sgdat_jax.run_folder import formats
from sgdat_jax.training import interruption, loop, runs, states, steps

CONFIG = "sweep.json"
TRIALS = "trials.jsonl"
# In tens of models a GPU finds work enough; on a CPU one model after another is faster.
_MODELS_AT_ONCE = 16


class Trial(NamedTuple):
    """One model of a sweep."""

    hyperparameters: dict[str, float]
    seed: int


class Watcher:
    """Is told how a sweep gets on, and ignores it; subclasses show it."""

    def began(self, trials: list[Trial]) -> None:
        """Hears which models are trained next, in one program."""

    def stepped(self, steps: int) -> None:
        """Hears of one step or more of each of them."""

    def epoch_ended(self, epoch: int, accuracies: np.ndarray) -> None:
        """Hears of an epoch, from 1, and of the test accuracy of each of them."""


class Sweep(NamedTuple):
    """A sweep that is set up."""

    config: configs.SweepConfig
    plan: runs.Plan
    todo: list[Trial]
    total: int  # trials, finished ones included
    lock: Any  # of the folder, until all is trained
    notes: tuple[str, ...] = ()  # what was found amiss in the folder


def set_up(config: configs.SweepConfig) -> Sweep:
    """Loads the images, builds the network and makes the folder of a sweep.

    Raises:
      ValueError: if the config does not fit the images, if no weight is binary, if the
        images would have to be streamed, or if the folder holds a sweep with other
        settings, a damaged one, or anything else, or cannot be written.
    """
    dataset = setup.load(config)
    config = setup.settle(config, dataset)
    plan = setup.plan(config.run(), dataset)
    if not plan.task.is_binary:
        raise ValueError(
            "A sweep needs binary layers, but full_precision leaves no layer binary, "
            f"got {config.full_precision}."
        )
    if runs.is_streamed(plan):
        raise ValueError(
            "A sweep holds all training images on the device: stream_above must be "
            f"above their {plan.dataset.train_images.nbytes / 1e9:.2g} gigabytes, got "
            f"{config.stream_above}."
        )
    folder = config.folder
    known: list[Any] = []
    notes: tuple[str, ...] = ()
    if (folder / CONFIG).exists():
        run_folder.check_links(folder, (TRIALS,))
        lock = run_folder.lock(folder)
        _check_same(config)
        recorded = run_folder.read_data(folder, CONFIG)
        run_folder.check_data(folder / CONFIG, recorded, plan.data, allow=None)
        known = [(line["hyperparameters"], line["seed"]) for line in read(folder)]
        if files.has_torn_line(folder / TRIALS):
            notes = (f"the last line of {folder / TRIALS}, which has no end.",)
    else:
        lock = run_folder.create(folder, config, CONFIG, plan.data)
    all_trials = trials(config)
    todo = [trial for trial in all_trials if tuple(trial) not in known]
    return Sweep(config, plan, todo, len(all_trials), lock, notes)


def trials(config: configs.SweepConfig) -> list[Trial]:
    """Returns all trials: every combination of hyperparameters with every seed."""
    grid = config.grid()
    return [
        Trial(dict(zip(grid, values, strict=True)), seed)
        for values in itertools.product(*grid.values())
        for seed in range(config.seed, config.seed + config.seeds)
    ]


def models_at_once(config: configs.SweepConfig, platform: str) -> int:
    """Returns how many models one program trains on a platform."""
    if config.models_at_once is not None:
        return config.models_at_once
    return 1 if platform == "cpu" else _MODELS_AT_ONCE


def train_all(
    sweep: Sweep,
    watcher: Watcher | None = None,
    check: interruption.Check = interruption.never,
) -> Iterator[list[dict[str, Any]]]:
    """Trains the models of all trials, and yields lines of the folder as they come.

    Args:
      sweep: what `set_up` returns.
      watcher: is told how it gets on.
      check: raises `interruption.Interrupted` to leave the models under way.
    """
    watcher = watcher or Watcher()
    try:
        yield from _train_chunks(sweep.config, sweep.plan, sweep.todo, watcher, check)
    finally:
        sweep.lock.release()


def _train_chunks(
    config: configs.SweepConfig,
    plan: runs.Plan,
    todo: list[Trial],
    watcher: Watcher,
    check: interruption.Check,
) -> Iterator[list[dict[str, Any]]]:
    layout = plan.task.layout
    images = loop.on_device(plan.dataset, layout)
    parts = ["test"] if plan.dataset.valid_images is None else ["valid", "test"]
    batches = {p: tuple(loop.test_batches(plan.dataset, layout, p)) for p in parts}
    size = min(models_at_once(config, layout.platform), len(todo))
    for first in range(0, len(todo), max(size, 1)):
        start = time.perf_counter()
        chunk = todo[first : first + size]
        # For fewer models the program would be compiled anew: the last is repeated.
        filled = [*chunk, *chunk[-1:] * (size - len(chunk))]
        watcher.began(chunk)
        measured = _train_chunk(plan, filled, images, batches, watcher, check)
        seconds = (time.perf_counter() - start) / len(chunk)
        lines = [
            {**trial._asdict(), **values, "seconds": seconds, "models_at_once": size}
            for trial, values in zip(chunk, measured, strict=False)
        ]
        for line in lines:
            files.append_line(config.folder / TRIALS, line)
        yield lines


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the lines of all finished trials, in no particular order.

    Raises:
      ValueError: if a line is damaged, or a trial is there twice.
    """
    file = folder / TRIALS
    if not file.exists():
        return []
    checked = formats.check_all(file, files.read_lines(file), formats.Trial)
    known = set()
    for line in checked:
        hyperparameters, seed = line["hyperparameters"], line["seed"]
        trial = *sorted(hyperparameters.items()), seed
        if trial in known:
            raise ValueError(
                f"{file} is damaged: it has {hyperparameters, seed} twice."
            )
        known.add(trial)
    return [{"diverged": False} | line for line in checked]  # not in former versions


def _check_same(config: configs.SweepConfig) -> None:
    # A sweep of before lacks the options that came later.
    defaults = json.loads(json.dumps(dataclasses.asdict(type(config)())))
    found = defaults | run_folder.read_json(config.folder, CONFIG)
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    kinds = HOUSEKEEPING, PLACEMENT
    for name in wanted.keys() - options_of(type(config), *kinds):
        if found.get(name) != wanted[name]:
            raise ValueError(
                f"{config.folder} holds a sweep with {name}={found.get(name)!r}, not "
                f"{wanted[name]!r}; choose another run_dir."
            )


def _train_chunk(
    plan: runs.Plan,
    chunk: Sequence[Trial],
    images: steps.Images,
    batches: Mapping[str, Sequence[loop.TestBatch]],
    watcher: Watcher,
    check: interruption.Check,
) -> list[dict[str, Any]]:
    """Trains models side by side and returns what is measured of each.

    Args:
      plan: what they have in common.
      chunk: their hyperparameters and seeds.
      images: all training images.
      batches: of the test set, and of the validation part if there is one.
      watcher: is told how it gets on.
      check: as in `train_all`.
    """
    hyperparameters = {
        name: jnp.array([trial.hyperparameters[name] for trial in chunk], jnp.float32)
        for name in chunk[0].hyperparameters
    }
    seeds = jnp.array([trial.seed for trial in chunk], jnp.uint32)
    assert isinstance(plan.config, configs.TrainConfig)
    fixed = _Fixed(plan.task, plan.config, plan.steps_per_epoch)
    programs = _programs(plan.task.layout.platform)
    steps_per_call = steps.steps_per_call(plan.task.layout.platform)
    of_models = programs.init(plan.init, fixed, hyperparameters, seeds)
    flips, diverged = np.zeros(len(chunk)), np.zeros(len(chunk), bool)
    accuracies: dict[str, list[np.ndarray]] = {part: [] for part in batches}
    for epoch in range(plan.config.epochs):
        orders = jnp.stack([loop.epoch_order(plan, t.seed, epoch) for t in chunk])
        examples, skipped, ratios = [], [], []
        for first in range(0, plan.steps_per_epoch, steps_per_call):
            indices = orders[:, first : first + steps_per_call]
            of_models, (metrics, weights) = programs.train_steps(
                fixed, hyperparameters, of_models, images, indices
            )
            examples.append(metrics.examples)
            skipped.append(weights.skipped)
            assert weights.flips is not None  # as `set_up` has seen
            ratios.append(weights.flips.total)
            watcher.stepped(indices.shape[1])
            check()
        # Read after the epoch, since reading waits for the step.
        flips += np.concatenate(ratios, axis=1).sum(axis=1, dtype=np.float64)
        # As in a run: too many steps in a row that were skipped, or none that was not.
        in_a_row = np.concatenate(skipped, axis=1).max(1)
        diverged |= in_a_row >= plan.config.max_skipped_steps
        diverged |= np.concatenate(examples, axis=1).sum(1) == 0
        for part, of_part in batches.items():
            accuracies[part].append(_accuracies(plan.task, of_models, of_part))
        watcher.epoch_ended(epoch + 1, accuracies["test"][-1])
    curves = {part: np.stack(rows, axis=1) for part, rows in accuracies.items()}
    return [
        {
            **_reached({part: rows[model] for part, rows in curves.items()}),
            "flips_per_weight": float(flips[model]),
            "diverged": bool(diverged[model]),
        }
        for model in range(len(chunk))
    ]


def _reached(curves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what a model reached, by its accuracies in each epoch."""
    test = curves["test"]
    best = int(np.argmax(curves.get("valid", test)))  # the first of the greatest
    reached: dict[str, Any] = {
        "test_accuracy": float(test[-1]),
        "best_test_accuracy": float(test[best]),
        "test_accuracies": test.tolist(),
    }
    if "valid" in curves:
        reached["valid_accuracy"] = float(curves["valid"][-1])
        reached["valid_accuracies"] = curves["valid"].tolist()
    return reached


class _Fixed(NamedTuple):
    """Static arguments of the programs."""

    task: states.Task
    config: configs.TrainConfig
    steps_per_epoch: int


def _over_models(function: Any, in_axes: Any, models: int) -> Any:
    """Maps a function over models; without vmap for one, which is faster on a CPU."""
    if models > 1:
        return jax.vmap(function, in_axes)

    def of_one(*arguments: Any) -> Any:
        taken = [
            argument if axis is None else jax.tree.map(lambda leaf: leaf[0], argument)
            for argument, axis in zip(arguments, in_axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[jnp.newaxis], function(*taken))

    return of_one


def _with_hyperparameters(
    fixed: _Fixed, hyperparameters: dict[str, jax.Array], params: Any
) -> states.Task:
    tx = setup.create_optimizer(
        fixed.config, params, fixed.steps_per_epoch, hyperparameters
    )
    return fixed.task._replace(tx=tx)


def _init(
    init: states.Init,
    fixed: _Fixed,
    hyperparameters: dict[str, jax.Array],
    seeds: jax.Array,
) -> states.TrainState:
    def of_model(
        hyperparameters: dict[str, jax.Array], seed: jax.Array
    ) -> states.TrainState:
        state = init(seed)
        task = _with_hyperparameters(fixed, hyperparameters, state.params)
        return state._replace(opt_state=task.tx.init(state.params))

    return _over_models(of_model, (0, 0), len(seeds))(hyperparameters, seeds)


def _train_steps(
    fixed: _Fixed,
    hyperparameters: dict[str, jax.Array],
    of_models: states.TrainState,
    data: steps.Images,
    indices: jax.Array,
) -> tuple[states.TrainState, steps.Record]:
    def of_model(
        hyperparameters: dict[str, jax.Array],
        state: states.TrainState,
        data: steps.Images,
        indices: jax.Array,
    ) -> tuple[states.TrainState, steps.Record]:
        task = _with_hyperparameters(fixed, hyperparameters, state.params)
        return steps.train_steps(task, state, data, indices)

    mapped = _over_models(of_model, (0, 0, None, 0), len(indices))
    return mapped(hyperparameters, of_models, data, indices)


def _eval_step(
    task: states.Task,
    of_models: states.TrainState,
    batch: steps.Batch,
    weights: jax.Array,
) -> jax.Array:
    """Returns the number of correct predictions of each model."""

    def of_model(
        state: states.TrainState, batch: steps.Batch, weights: jax.Array
    ) -> jax.Array:
        return steps.eval_step(task, state, batch, weights).correct

    models = len(of_models.step)
    return _over_models(of_model, (0, None, None), models)(of_models, batch, weights)


class _Programs(NamedTuple):
    init: Any
    train_steps: Any
    eval_step: Any


@functools.cache
def _programs(platform: str) -> _Programs:
    """Returns the functions above, compiled for a platform."""
    options = cpu.compiler_options(platform)
    compiled = functools.partial(jax.jit, compiler_options=options)
    return _Programs(
        init=compiled(_init, static_argnums=(0, 1)),
        train_steps=compiled(_train_steps, static_argnums=0, donate_argnums=2),
        eval_step=compiled(_eval_step, static_argnums=0),
    )


def _accuracies(
    task: states.Task,
    of_models: states.TrainState,
    batches: Sequence[loop.TestBatch],
) -> np.ndarray:
    """Returns the accuracy of each model, shape (models,)."""
    evaluate = _programs(task.layout.platform).eval_step
    correct = [evaluate(task, of_models, *batch) for batch in batches]
    images = sum(float(weights.sum()) for _, weights in batches)
    return np.sum(correct, axis=0) / images
