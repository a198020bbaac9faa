"""A whole run: set up, epochs of training and evaluation, and the folder of results."""

import dataclasses
import importlib.metadata
import importlib.util
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax import __version__, optimizers
from sgdat_jax.data import sources, stream
from sgdat_jax.training import (
    checkpoint,
    diagnostics,
    interruption,
    records,
    registry,
    run_folder,
    weights_file,
)
from sgdat_jax.training import config as config_lib
from sgdat_jax.training import state as state_lib
from sgdat_jax.training import step as step_lib

_EVAL_BATCH = 512
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


# Images with labels, and their weights: 1, or 0 for what only fills the batch.
TestBatch = tuple[step_lib.Batch, jax.Array]


class Progress(NamedTuple):
    """How far a run has come, besides its state."""

    lines: tuple[dict[str, Any], ...] = ()  # of metrics, one per epoch that has ended
    times: tuple[dict[str, Any], ...] = ()  # of the same epochs
    seconds: float = 0.0  # of the whole run so far
    steps: int = 0  # of the epoch under way
    epoch_seconds: float = 0.0  # that these took
    record: records.EpochRecord | None = None  # of these


class Run(NamedTuple):
    """A run that is set up: all that its next step needs."""

    config: config_lib.TrainConfig
    folder: pathlib.Path
    dataset: sources.Dataset
    task: state_lib.Task
    state: state_lib.TrainState
    steps_per_epoch: int
    progress: Progress = Progress()
    lock: Any = None  # of the folder, while it is written to
    notes: tuple[str, ...] = ()  # what was found amiss when it was restored

    @property
    def steps_done(self) -> int:
        """Steps of all epochs so far."""
        epochs = len(self.progress.lines)
        return epochs * self.steps_per_epoch + self.progress.steps


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
    lock = run_folder.create(run.folder, run.config)
    return run._replace(state=plan.init(np.uint32(seed)), lock=lock)


def resume(config: config_lib.TrainConfig) -> Run:
    """Goes on with the run in ``config.run_dir``, or begins one if there is none.

    The result is that of a run without a pause, to the bit, on the same machine.

    Raises:
      ValueError: if the folder holds a run with other settings or fewer epochs to go,
        something else, or what another process writes to; or as in `set_up`.
    """
    folder = pathlib.Path(str(config.run_dir))
    if run_folder.is_empty(folder):
        return set_up(config)
    _check_recorded(folder, config)
    return go_on(plan(config, load(config)), config.seed, folder)


def go_on(plan: Plan, seed: int, folder: pathlib.Path) -> Run:
    """Returns the run in a folder from its last whole checkpoint, or from its start.

    If the folder is new or empty, this is `begin`.

    Raises:
      ValueError: as in `resume`.
    """
    if run_folder.is_empty(folder):
        return begin(plan, seed, folder)
    _check_recorded(folder, dataclasses.replace(plan.config, seed=seed))
    try:
        lock = run_folder.lock(folder)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}.") from None
    try:
        run = _run(plan, seed, folder)
        found, notes = checkpoint.restore_newest_whole(
            folder / run_folder.CHECKPOINTS, run.state
        )
        run = run._replace(notes=tuple(notes))
        if found is None:
            run = run._replace(state=plan.init(np.uint32(seed)))
        else:
            run = _at(run, found)
        if len(run.progress.lines) < run.config.epochs:
            run_folder.write_epochs(folder, run.progress.lines, run.progress.times)
            run_folder.reopen(folder, run.config)
        if not (folder / run_folder.RESULT).exists():
            return run._replace(lock=lock)
    except BaseException:
        lock.release()
        raise
    lock.release()
    return run


def _check_recorded(folder: pathlib.Path, config: config_lib.TrainConfig) -> None:
    """Raises ValueError unless a run in a folder may go on with a config."""
    recorded = run_folder.read_config(folder)
    config_lib.check_same(folder, recorded, config, free=("epochs",))
    if config.epochs < recorded.epochs:
        raise ValueError(
            f"epochs must be at least the {recorded.epochs} of the run in {folder}, "
            f"got {config.epochs}."
        )


def restore(folder: pathlib.Path) -> Run:
    """Returns a finished run with its last state.

    Raises:
      ValueError: if the folder holds no run, or a damaged one.
    """
    config = run_folder.read_config(folder)
    run = _run(plan(config, load(config)), config.seed, folder)
    found = checkpoint.restore(folder / run_folder.CHECKPOINTS, run.state)
    return _at(run, found)


def restore_weights(file: pathlib.Path) -> Run:
    """Returns a run with the weights of a file, and no state of its optimizers.

    Raises:
      ValueError: if the file is none of weights, or damaged.
    """
    config = weights_file.read_config(file)
    run = _run(plan(config, load(config)), config.seed, file.parent)
    params, stats = weights_file.read(file, run.state.params, run.state.stats)
    state = run.state._replace(params=params, stats=stats, opt_state=())
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


def train(
    run: Run, watcher: Watcher, check: interruption.Check = interruption.never
) -> tuple[Run, dict[str, Any]]:
    """Trains, evaluates after each epoch and fills the run folder.

    Args:
      run: a run at its start or anywhere else.
      watcher: is told how it gets on.
      check: raises `interruption.Interrupted` where the run shall end early.

    Returns:
      The run with its last state, and the result that was written to the folder.

    Raises:
      FloatingPointError: after ``max_skipped_steps`` in a row that were not finite, or
        an epoch of such steps alone; it is recorded in the folder.
      interruption.Interrupted: what ``check`` raised. In both cases the last good state
        is saved.
      OSError: if the folder cannot be written any more.
    """
    saver = checkpoint.Saver(
        run.folder / run_folder.CHECKPOINTS, run.config.keep_states
    )
    is_due = _timer(run)
    try:
        with saver:
            try:
                for run in _advance(run, watcher, check):  # noqa: B020
                    if is_due(run.steps_done):
                        saver.save(_checkpoint(run))
                    check()
                saver.save(_checkpoint(run))
            except (FloatingPointError, interruption.Interrupted) as error:
                saver.save(_checkpoint(run))
                saver.wait()
                if isinstance(error, FloatingPointError):
                    epoch = len(run.progress.lines) + 1
                    run_folder.write_diverged(run.folder, epoch, run.steps_done)
                raise
        run_folder.write_result(run.folder, _result(run))
    finally:
        if run.lock is not None:
            run.lock.release()
    return run, run_folder.read_result(run.folder)


def evaluate(
    run: Run,
    tests: Iterable[TestBatch] | None = None,
    check: interruption.Check = interruption.never,
) -> dict[str, float]:
    """Returns loss and accuracies on the whole test set, as in a line of metrics.

    Args:
      run: with the state to evaluate.
      tests: what `test_batches` gives, where it is at hand already.
      check: as in `train`.
    """
    metrics = []
    for batch, weights in tests or test_batches(run.dataset):
        metrics.append(_eval_step(run.task, run.state, batch, weights))
        check()
    total = jax.tree.map(lambda *sums: float(np.sum(sums)), *metrics)
    return _means("test", total._asdict())


def _default_folder(config: config_lib.TrainConfig) -> str:
    moment = time.strftime("%Y%m%d-%H%M%S")
    return f"runs/{config.task_name}-{config.optimizer}-seed{config.seed}-{moment}"


_train_steps = jax.jit(step_lib.train_steps, static_argnums=0, donate_argnums=1)
_train_batch = jax.jit(step_lib.train_batch, static_argnums=0, donate_argnums=1)
_eval_step = jax.jit(step_lib.eval_step, static_argnums=0)
_flip_counts = jax.jit(optimizers.flip_counts)
_diagnose = jax.jit(diagnostics.diagnose)
_flip_histogram = jax.jit(optimizers.flip_histogram)


def _timer(run: Run) -> Callable[[int], bool]:
    """Returns a function that says after a step whether it is time to save."""
    every, minutes = run.config.save_every_steps, run.config.save_every_minutes
    last_time, last_step = time.monotonic(), run.steps_done

    def is_due(step: int) -> bool:
        nonlocal last_time, last_step
        now = time.monotonic()
        by_steps = every is not None and step // every > last_step // every
        if not by_steps and now - last_time < 60 * minutes:
            return False
        last_time, last_step = now, step
        return True

    return is_due


def _checkpoint(run: Run) -> checkpoint.Checkpoint:
    progress = run.progress._asdict()
    if run.progress.record is not None:
        progress["record"] = run.progress.record.sums()
    return checkpoint.Checkpoint(run.state, progress)


def _at(run: Run, found: checkpoint.Checkpoint) -> Run:
    """Returns a run where it was when a checkpoint was saved."""
    progress = Progress(**found.progress)
    if found.progress["record"] is not None:
        record = records.EpochRecord(found.progress["record"])
        progress = progress._replace(record=record)
    return run._replace(state=found.state, progress=progress)


def _advance(run: Run, watcher: Watcher, check: interruption.Check) -> Iterator[Run]:
    """Takes a run to its end; yields it after each call of a program and each epoch.

    Its caller may stop at each of them: the state is then still there.
    """
    start = time.perf_counter() - run.progress.seconds
    data = tests = None
    if not is_streamed(run):
        data, tests = on_device(run.dataset), tuple(test_batches(run.dataset))
    while len(run.progress.lines) < run.config.epochs:
        for run in _train_epoch(run, data, watcher):  # noqa: B020
            seconds = time.perf_counter() - start
            yield run._replace(progress=run.progress._replace(seconds=seconds))
        line, times = _epoch_lines(run)
        line |= evaluate(run, tests, check)
        _write_weights(run, line)
        run_folder.append_epoch(run.folder, line, times)
        progress = Progress(
            lines=(*run.progress.lines, line),
            times=(*run.progress.times, times),
            seconds=time.perf_counter() - start,
        )
        run = run._replace(progress=progress)
        watcher.epoch_ended(line | times)
        yield run


def _write_weights(run: Run, line: dict[str, Any]) -> None:
    """Writes the weights of an epoch that is the best so far, or the last."""
    before = (old["test_accuracy"] for old in run.progress.lines)
    names = []
    if line["test_accuracy"] > max(before, default=-1):
        names.append(run_folder.BEST)
    if line["epoch"] == run.config.epochs:
        names.append(run_folder.LAST)
    details = {
        "input_shape": run.dataset.input_shape,
        "num_classes": run.dataset.num_classes,
        "mean": run.task.mean,
        "std": run.task.std,
        "reached": {k: line[k] for k in ("epoch", "test_accuracy", "test_loss")},
    }
    for name in names:
        file = run.folder / name
        weights_file.write(file, run.config, run.state.params, run.state.stats, details)


def _train_epoch(
    run: Run, data: step_lib.Batch | None, watcher: Watcher
) -> Iterator[Run]:
    """Takes the steps of an epoch that are left; yields the run after each call."""
    start = time.perf_counter() - run.progress.epoch_seconds
    if run.progress.steps == 0 and run.state.counts_before is not None:
        counts = _flip_counts(run.state.opt_state)
        run = run._replace(state=run.state._replace(counts_before=counts))
    record = run.progress.record or records.EpochRecord()
    last = None
    for state, found in _steps(run, data):
        record.add(found)
        metrics, weights = found
        watcher.stepped(metrics, weights.flips.total if weights.flips else None)
        progress = run.progress._replace(
            steps=run.progress.steps + len(metrics.loss),
            epoch_seconds=time.perf_counter() - start,
            record=record,
        )
        run = run._replace(state=state, progress=progress)
        yield run
        _check_finite(run, last)
        last = (
            weights.skipped
        )  # not yet that of this call, which may still be under way
    _check_finite(run, last)
    jax.block_until_ready(run.state)
    seconds = time.perf_counter() - start
    yield run._replace(progress=run.progress._replace(epoch_seconds=seconds))


def _check_finite(run: Run, skipped: jax.Array | None) -> None:
    """Raises FloatingPointError after too many steps in a row that were skipped."""
    if skipped is None or np.max(skipped) < run.config.max_skipped_steps:
        return
    raise FloatingPointError(
        f"the loss or gradients of {int(np.max(skipped))} steps in a row are not "
        f"finite, before step {run.steps_done}; the last good state is in {run.folder}"
    )


def _epoch_lines(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the line of metrics of an epoch whose steps are done, and its times.

    Raises:
      FloatingPointError: if all of the steps were skipped.
    """
    assert run.progress.record is not None
    sums = run.progress.record.sums()
    steps, epoch = sums["steps"], len(run.progress.lines) + 1
    if not sums["examples"]:
        raise FloatingPointError(
            f"the loss or gradients of all steps of epoch {epoch} are not finite; the "
            f"last good state is in {run.folder}"
        )
    line = {"epoch": epoch, **_means("train", sums)}
    if sums["skipped_steps"]:
        line["skipped_steps"] = int(sums["skipped_steps"])
    for name in ("flip_ratio", "flip_ratio_per_layer", "gradient_per_layer"):
        if name in sums:
            line[name] = jax.tree.map(lambda total: total / steps, sums[name])
    if run.task.diagnostics:
        line |= _diagnostics_line(run)
    seconds = run.progress.epoch_seconds
    images = run.steps_per_epoch * run.config.batch_size
    return line, {
        "epoch": epoch,
        "seconds": seconds,
        "images_per_second": images / seconds,
    }


def _steps(
    run: Run, data: step_lib.Batch | None
) -> Iterator[tuple[state_lib.TrainState, step_lib.Record]]:
    """Takes the steps of an epoch; yields the state after each call, and its record.

    Args:
      run: at the start of the epoch, or within it after any call.
      data: all training images; None: they are streamed.
    """
    state, first_step = run.state, run.progress.steps
    seed, epoch = run.config.seed, len(run.progress.lines)
    if data is None:
        batches = stream.batches(
            run.dataset, seed, epoch, run.config.batch_size, first_step=first_step
        )
        for batch in batches:
            state, record = _train_batch(run.task, state, step_lib.Batch(*batch))
            yield state, record
        return
    order, size = epoch_order(run, seed, epoch), step_lib.steps_per_call()
    for first in range(first_step, len(order), size):
        indices = order[first : first + size]
        state, record = _train_steps(run.task, state, data, indices)
        yield state, record


def _diagnostics_line(run: Run) -> dict[str, Any]:
    line: dict[str, Any] = {}
    counts_before = run.state.counts_before
    if counts_before is None:
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


def _means(prefix: str, sums: Mapping[str, float]) -> dict[str, float]:
    """Returns means over all examples of the sums of `step.Metrics`."""
    return {
        f"{prefix}_loss": sums["loss"] / sums["examples"],
        f"{prefix}_accuracy": sums["correct"] / sums["examples"],
        f"{prefix}_top5_accuracy": sums["correct_top5"] / sums["examples"],
    }


def _result(run: Run) -> dict[str, Any]:
    lines = run.progress.lines
    best = max(lines, key=lambda line: line["test_accuracy"])
    device = jax.devices()[0]
    skipped = sum(line.get("skipped_steps", 0) for line in lines)
    return {
        "test_accuracy": lines[-1]["test_accuracy"],
        "best_test_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "selection": "test_accuracy: last epoch; best_test_accuracy: best epoch on "
        "the test set",
        "epochs": run.config.epochs,
        "skipped_steps": skipped,
        "seconds": run.progress.seconds,
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
