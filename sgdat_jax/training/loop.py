"""A whole run: set up, epochs of training and evaluation, and the folder of results."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import pathlib
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax import __version__, optimizers
from sgdat_jax.data import sources, stream
from sgdat_jax.training import checkpoint, diagnostics, registry, run_folder
from sgdat_jax.training import config as config_lib
from sgdat_jax.training import state as state_lib
from sgdat_jax.training import step as step_lib

_EVAL_BATCH = 512
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


# Images with labels, and their weights: 1, or 0 for what only fills the batch.
TestBatch = tuple[step_lib.Batch, jax.Array]


class Run(NamedTuple):
    """A run that is set up: all that its first step needs."""

    config: config_lib.TrainConfig
    folder: pathlib.Path
    dataset: sources.Dataset
    task: state_lib.Task
    state: state_lib.TrainState
    steps_per_epoch: int


class Plan(NamedTuple):
    """What the runs of a config with any seed have in common."""

    config: config_lib.TrainConfig
    dataset: sources.Dataset
    task: state_lib.Task
    init: state_lib.Init
    steps_per_epoch: int


class Watcher:
    """Is told how a run gets on, and ignores it; subclasses show it."""

    def stepped(self, metrics: step_lib.Metrics, flip_ratio: jax.Array | None) -> None:
        """Hears of one step or more; the arrays have an entry for each.

        Without binary weights there is no flip ratio.
        """

    def epoch_ended(self, line: dict[str, Any]) -> None:
        """Hears of an epoch, by its line of the metrics file."""


class Watchers(Watcher):
    """Tells several watchers.

    Args:
      watchers: in the order in which they hear.
    """

    def __init__(self, watchers: Sequence[Watcher]):
        self._watchers = watchers

    def stepped(self, metrics: step_lib.Metrics, flip_ratio: jax.Array | None) -> None:
        """Tells all."""
        for watcher in self._watchers:
            watcher.stepped(metrics, flip_ratio)

    def epoch_ended(self, line: dict[str, Any]) -> None:
        """Tells all."""
        for watcher in self._watchers:
            watcher.epoch_ended(line)


def set_up(config: config_lib.TrainConfig) -> Run:
    """Loads the images, builds the network and then makes the run folder.

    Raises:
      ValueError: if the config does not fit the images, or if the run folder holds
        something or cannot be written. Nothing is left on disk then.
    """
    folder = config.run_dir or _default_folder(config)
    return begin(plan(config, load(config)), config.seed, pathlib.Path(folder))


def load(config: config_lib.BaseConfig) -> sources.Dataset:
    """Loads the images.

    Raises:
      ValueError: if the config does not fit them.
    """
    dataset = sources.load(config.dataset, config.data_dir)
    num_images = len(dataset.train_images)
    if config.batch_size > num_images:
        raise ValueError(
            f"batch_size must be at most the {num_images} training images, got "
            f"{config.batch_size}."
        )
    side = min(dataset.input_shape[:2])
    if config.crop_padding >= side:
        raise ValueError(
            f"crop_padding must be less than the {side} pixels of an image's side, got "
            f"{config.crop_padding}."
        )
    constants = registry.NORMALIZATIONS[config.normalization]
    channels = dataset.input_shape[2]
    if constants and len(constants[0]) != channels:
        raise ValueError(
            f"normalization {config.normalization} is for images of "
            f"{len(constants[0])} channels, {dataset.name} has {channels}."
        )
    if _streams(config, dataset) and importlib.util.find_spec("grain") is None:
        raise ValueError(
            "grain is not installed, and so many training images need it: pip install "
            f"grain, or a higher stream_above, got {config.stream_above}."
        )
    state_lib.model_shapes(config, dataset)
    return dataset


def plan(config: config_lib.TrainConfig, dataset: sources.Dataset) -> Plan:
    """Builds the network, in shapes alone, and what else the runs of any seed share.

    Raises:
      ValueError: if the network does not fit the images.
    """
    steps_per_epoch = len(dataset.train_images) // config.batch_size
    task, init = state_lib.create(config, dataset, steps_per_epoch)
    return Plan(config, dataset, task, init, steps_per_epoch)


def begin(plan: Plan, seed: int, folder: pathlib.Path) -> Run:
    """Makes the run folder and the first state; runs of one plan share their programs.

    Raises:
      ValueError: if the run folder holds something or cannot be written.
    """
    run = _run(plan, seed, folder)
    run_folder.create(run.folder, run.config)
    return run._replace(state=plan.init(np.uint32(seed)))


def restore(folder: pathlib.Path) -> Run:
    """Returns a finished run with its last state.

    Raises:
      ValueError: if the folder holds no run, or a damaged one.
    """
    config = run_folder.read_config(folder)
    run = _run(plan(config, load(config)), config.seed, folder)
    state = checkpoint.restore(folder / run_folder.CHECKPOINTS, run.state)
    return run._replace(state=state)


def _run(plan: Plan, seed: int, folder: pathlib.Path) -> Run:
    """Returns a run whose state is but shapes."""
    return Run(
        config=dataclasses.replace(plan.config, seed=seed, run_dir=str(folder)),
        folder=folder,
        dataset=plan.dataset,
        task=plan.task,
        state=jax.eval_shape(plan.init, np.uint32(seed)),
        steps_per_epoch=plan.steps_per_epoch,
    )


def train(run: Run, watcher: Watcher) -> tuple[Run, dict[str, Any]]:
    """Trains, evaluates after each epoch and fills the run folder.

    Returns:
      The run with its last state, and the result that was written to the folder.

    Raises:
      FloatingPointError: after an epoch whose loss is not finite; it is recorded in
        the folder.
    """
    start = time.perf_counter()
    data = tests = None
    if not is_streamed(run):
        data, tests = on_device(run.dataset), tuple(test_batches(run.dataset))
    lines = []
    for epoch in range(run.config.epochs):
        run, line = _train_epoch(run, data, epoch, watcher)
        if not math.isfinite(line["train_loss"]):
            run_folder.write_diverged(run.folder, line["epoch"], line["train_loss"])
            raise FloatingPointError(
                f"the training loss is {line['train_loss']} in epoch {epoch + 1}, with "
                f"which the run in {run.folder} ends"
            )
        line |= evaluate(run, tests)
        lines.append(line)
        run_folder.append_metrics(run.folder, line)
        watcher.epoch_ended(line)
    checkpoint.save(run.folder / run_folder.CHECKPOINTS, run.state)
    result = _result(run, lines, time.perf_counter() - start)
    run_folder.write_result(run.folder, result)
    return run, run_folder.read_result(run.folder)


def evaluate(run: Run, tests: Iterable[TestBatch] | None = None) -> dict[str, float]:
    """Returns loss and accuracies on the whole test set, as in a line of metrics.

    Args:
      run: with the state to evaluate.
      tests: what `test_batches` gives, where it is at hand already.
    """
    metrics = [
        _eval_step(run.task, run.state, batch, weights)
        for batch, weights in tests or test_batches(run.dataset)
    ]
    return _means("test", jax.tree.map(lambda *sums: np.stack(sums), *metrics))


def _default_folder(config: config_lib.TrainConfig) -> str:
    moment = time.strftime("%Y%m%d-%H%M%S")
    return f"runs/{config.task_name}-{config.optimizer}-seed{config.seed}-{moment}"


_train_steps = jax.jit(step_lib.train_steps, static_argnums=0, donate_argnums=1)
_train_batch = jax.jit(step_lib.train_batch, static_argnums=0, donate_argnums=1)
_eval_step = jax.jit(step_lib.eval_step, static_argnums=0)
_flip_counts = jax.jit(optimizers.flip_counts)
_diagnose = jax.jit(diagnostics.diagnose)
_flip_histogram = jax.jit(optimizers.flip_histogram)


def _train_epoch(
    run: Run, data: step_lib.Batch | None, epoch: int, watcher: Watcher
) -> tuple[Run, dict[str, Any]]:
    start = time.perf_counter()
    state, records = run.state, []
    counts_before = None
    if run.task.diagnostics and run.task.is_binary:
        counts_before = _flip_counts(state.opt_state)
    for state, record in _steps(run, data, epoch):  # noqa: B007
        records.append(record)
        metrics, weights = record
        watcher.stepped(metrics, weights.flips.total if weights.flips else None)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    run = run._replace(state=state)
    images = run.steps_per_epoch * run.config.batch_size
    metrics, weights = jax.tree.map(lambda *parts: np.concatenate(parts), *records)
    means = jax.tree.map(lambda steps: np.mean(steps, dtype=np.float64), weights)
    line = {
        "epoch": epoch + 1,
        **_means("train", metrics),
        **(_shares("flip_ratio", means.flips) if means.flips else {}),
        "seconds": seconds,
        "images_per_second": images / seconds,
    }
    if run.task.diagnostics:
        line |= _diagnostics_line(run, counts_before, means.gradients)
    return run, line


def _steps(
    run: Run, data: step_lib.Batch | None, epoch: int
) -> Iterator[tuple[state_lib.TrainState, step_lib.Record]]:
    """Takes the steps of an epoch; yields the state after each call, and its record.

    Args:
      run: at the start of the epoch.
      data: all training images; None: they are streamed.
      epoch: from 0.
    """
    state = run.state
    if data is None:
        seed, size = run.config.seed, run.config.batch_size
        for batch in stream.batches(run.dataset, seed, epoch, size):
            state, record = _train_batch(run.task, state, step_lib.Batch(*batch))
            yield state, record
        return
    order, size = epoch_order(run, run.config.seed, epoch), step_lib.steps_per_call()
    for first in range(0, len(order), size):
        indices = order[first : first + size]
        state, record = _train_steps(run.task, state, data, indices)
        yield state, record


def _diagnostics_line(run: Run, counts_before: Any, gradients: Any) -> dict[str, Any]:
    line: dict[str, Any] = {
        "gradient_per_layer": {
            name: float(mean) for name, mean in optimizers.layers_of(gradients).items()
        }
    }
    if not run.task.is_binary:
        return line
    if run.config.restarts_flips:
        counts_before = jax.tree.map(jnp.zeros_like, counts_before)
    found = _diagnose(run.state.opt_state, counts_before)
    for name, value in found._asdict().items():
        if isinstance(value, optimizers.FlipRatio):
            line |= _shares(name, value)
        elif value is not None:
            line[name] = value.tolist()
    return line


def _shares(name: str, shares: optimizers.FlipRatio) -> dict[str, Any]:
    """Returns shares of all weights and of each layer as entries of a line."""
    per_layer = optimizers.layers_of(shares.per_leaf)
    return {
        name: shares.total.tolist(),
        f"{name}_per_layer": {key: leaf.tolist() for key, leaf in per_layer.items()},
    }


def is_streamed(plan: Plan | Run) -> bool:
    """Returns whether the training images go to the device batch by batch."""
    return _streams(plan.config, plan.dataset)


def _streams(config: config_lib.BaseConfig, dataset: sources.Dataset) -> bool:
    return dataset.train_images.nbytes > config.stream_above * 1e9


def on_device(dataset: sources.Dataset) -> step_lib.Batch:
    """Returns all training images, copied to the device."""
    return step_lib.Batch(
        jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    )


def epoch_order(plan: Plan | Run, seed: int, epoch: int) -> jax.Array:
    """Returns the image numbers of each step of an epoch, of shape (steps, batch)."""
    num_images = len(plan.dataset.train_images)
    return stream.epoch_order(seed, epoch, num_images, plan.config.batch_size)


def test_batches(dataset: sources.Dataset) -> Iterator[TestBatch]:
    """Yields the test set in batches of one size, the last padded by weight 0."""
    size = min(_EVAL_BATCH, len(dataset.test_images))
    for start in range(0, len(dataset.test_images), size):
        images = dataset.test_images[start : start + size]
        labels = dataset.test_labels[start : start + size]
        missing = size - len(images)
        yield (
            step_lib.Batch(
                jnp.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
                jnp.pad(labels, (0, missing)),
            ),
            (jnp.arange(size) < len(images)).astype(jnp.float32),
        )


def _means(prefix: str, metrics: step_lib.Metrics) -> dict[str, float]:
    """Returns means over all examples of metrics with an entry per step."""
    total = jax.tree.map(lambda sums: float(np.sum(sums)), metrics)
    return {
        f"{prefix}_loss": total.loss / total.examples,
        f"{prefix}_accuracy": total.correct / total.examples,
        f"{prefix}_top5_accuracy": total.correct_top5 / total.examples,
    }


def _result(
    run: Run, lines: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    best = max(lines, key=lambda line: line["test_accuracy"])
    device = jax.devices()[0]
    return {
        "test_accuracy": lines[-1]["test_accuracy"],
        "best_test_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "selection": "test_accuracy: last epoch; best_test_accuracy: best epoch on "
        "the test set",
        "epochs": run.config.epochs,
        "seconds": seconds,
        "seed": run.config.seed,
        "model": {"name": run.config.model, **dataclasses.asdict(run.task.choices)},
        **(_flips(run, lines) if run.task.is_binary else {}),
        "device": " ".join(dict.fromkeys((device.platform, device.device_kind))),
        "versions": {"python": platform.python_version(), "sgdat-jax": __version__}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _flips(run: Run, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns how often binary weights flipped, in all and by their number."""
    counts = _flip_counts(run.state.opt_state)
    flips = sum(line["flip_ratio"] for line in lines) * run.steps_per_epoch
    histogram = _flip_histogram(counts)
    return {"flips_per_weight": flips, **_shares("flip_histogram", histogram)}
