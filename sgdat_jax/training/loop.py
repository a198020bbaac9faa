"""A whole run: set up, epochs of training and evaluation, and the folder of results."""

import dataclasses
import importlib.metadata
import math
import pathlib
import platform
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax import __version__, optimizers
from sgdat_jax.data import sources, stream
from sgdat_jax.training import checkpoint, run_folder
from sgdat_jax.training import config as config_lib
from sgdat_jax.training import state as state_lib
from sgdat_jax.training import step as step_lib

_EVAL_BATCH = 512
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Run(NamedTuple):
    """A run that is set up: all that its first step needs."""

    config: config_lib.TrainConfig
    folder: pathlib.Path
    dataset: sources.Dataset
    task: state_lib.Task
    state: state_lib.TrainState
    steps_per_epoch: int


class Watcher:
    """Is told how a run gets on, and ignores it; subclasses show it."""

    def stepped(self, metrics: step_lib.Metrics, flips: optimizers.FlipRatio) -> None:
        """Hears of a step; the arrays may still be in the making."""

    def epoch_ended(self, line: dict[str, Any]) -> None:
        """Hears of an epoch, by its line of the metrics file."""


def set_up(config: config_lib.TrainConfig) -> Run:
    """Loads the images, builds the network and then makes the run folder.

    Raises:
      ValueError: if the config does not fit the images, or if the run folder holds
        something or cannot be written. Nothing is left on disk then.
    """
    run, init = _build(config, pathlib.Path(config.run_dir or _default_folder(config)))
    run_folder.create(run.folder, run.config)
    return run._replace(state=init(config.seed))


def restore(folder: pathlib.Path) -> Run:
    """Returns a finished run with its last state.

    Raises:
      ValueError: if the folder holds no run, or a damaged one.
    """
    run, _ = _build(run_folder.read_config(folder), folder)
    state = checkpoint.restore(folder / run_folder.CHECKPOINTS, run.state)
    return run._replace(state=state)


def train(run: Run, watcher: Watcher) -> tuple[Run, dict[str, Any]]:
    """Trains, evaluates after each epoch and fills the run folder.

    Returns:
      The run with its last state, and the result that was written to the folder.

    Raises:
      FloatingPointError: after an epoch whose loss is not finite.
    """
    start = time.perf_counter()
    data = step_lib.Batch(
        jnp.asarray(run.dataset.train_images), jnp.asarray(run.dataset.train_labels)
    )
    lines = []
    for epoch in range(run.config.epochs):
        run, line = _train_epoch(run, data, epoch, watcher)
        if not math.isfinite(line["train_loss"]):
            raise FloatingPointError(
                f"the training loss is {line['train_loss']} in epoch {epoch + 1}; "
                f"nothing of it is kept in {run.folder}"
            )
        line |= evaluate(run)
        lines.append(line)
        run_folder.append_metrics(run.folder, line)
        watcher.epoch_ended(line)
    checkpoint.save(run.folder / run_folder.CHECKPOINTS, run.state)
    result = _result(run.config, lines, time.perf_counter() - start)
    run_folder.write_result(run.folder, result)
    return run, result


def evaluate(run: Run) -> dict[str, float]:
    """Returns loss and accuracies on the whole test set, as in a line of metrics."""
    metrics = [
        _eval_step(run.task, run.state, batch, weights)
        for batch, weights in _test_batches(run.dataset)
    ]
    return _means("test", metrics)


def _build(
    config: config_lib.TrainConfig, folder: pathlib.Path
) -> tuple[Run, state_lib.Init]:
    """Returns a run whose state is but shapes, and the function that makes it."""
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
    steps_per_epoch = num_images // config.batch_size
    task, init = state_lib.create(config, dataset, steps_per_epoch)
    config = dataclasses.replace(config, run_dir=str(folder))
    state = jax.eval_shape(init, config.seed)
    return Run(config, folder, dataset, task, state, steps_per_epoch), init


def _default_folder(config: config_lib.TrainConfig) -> str:
    moment = time.strftime("%Y%m%d-%H%M%S")
    name = re.sub(r"[^\w.]+", "-", pathlib.PurePath(config.dataset).name)
    parts = (name, config.model, config.optimizer, f"seed{config.seed}")
    return "-".join((f"runs/{parts[0]}", *parts[1:], moment))


def _train_step(
    task: state_lib.Task,
    state: state_lib.TrainState,
    data: step_lib.Batch,
    indices: jax.Array,
) -> tuple[state_lib.TrainState, step_lib.Metrics, optimizers.FlipRatio]:
    batch = step_lib.Batch(data.images[indices], data.labels[indices])
    return step_lib.train_step(task, state, batch)


_train_step = jax.jit(_train_step, static_argnums=0, donate_argnums=1)
_eval_step = jax.jit(step_lib.eval_step, static_argnums=0)


def _train_epoch(
    run: Run, data: step_lib.Batch, epoch: int, watcher: Watcher
) -> tuple[Run, dict[str, Any]]:
    # One call per step: a loop compiled by XLA is far slower on its CPU backend.
    start = time.perf_counter()
    state, metrics, flips = run.state, [], []
    for indices in _epoch_order(run, epoch):
        state, step_metrics, step_flips = _train_step(run.task, state, data, indices)
        metrics.append(step_metrics)
        flips.append(step_flips)
        watcher.stepped(step_metrics, step_flips)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    images = run.steps_per_epoch * run.config.batch_size
    flip_ratio: optimizers.FlipRatio = jax.tree.map(
        lambda *ratios: float(np.mean(ratios)), *flips
    )
    line = {
        "epoch": epoch + 1,
        **_means("train", metrics),
        "flip_ratio": flip_ratio.total,
        "flip_ratio_per_layer": optimizers.layers_of(flip_ratio.per_leaf),
        "seconds": seconds,
        "images_per_second": images / seconds,
    }
    return run._replace(state=state), line


def _epoch_order(run: Run, epoch: int) -> jax.Array:
    """Returns the image numbers of each step, of shape (steps, batch)."""
    return stream.epoch_order(
        run.config.seed, epoch, len(run.dataset.train_images), run.config.batch_size
    )


def _test_batches(
    dataset: sources.Dataset,
) -> Iterator[tuple[step_lib.Batch, jax.Array]]:
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


def _means(prefix: str, metrics: Sequence[step_lib.Metrics]) -> dict[str, float]:
    total = jax.tree.map(lambda *sums: float(np.sum(sums)), *metrics)
    return {
        f"{prefix}_loss": total.loss / total.examples,
        f"{prefix}_accuracy": total.correct / total.examples,
        f"{prefix}_top5_accuracy": total.correct_top5 / total.examples,
    }


def _result(
    config: config_lib.TrainConfig, lines: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    best = max(lines, key=lambda line: line["test_accuracy"])
    device = jax.devices()[0]
    return {
        "test_accuracy": lines[-1]["test_accuracy"],
        "best_test_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "selection": "test_accuracy: last epoch; best_test_accuracy: best epoch on "
        "the test set",
        "epochs": config.epochs,
        "seconds": seconds,
        "seed": config.seed,
        "device": " ".join(dict.fromkeys((device.platform, device.device_kind))),
        "versions": {"python": platform.python_version(), "sgdat-jax": __version__}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
