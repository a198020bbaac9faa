"""A run that can take its next step: a new one, or one where it was saved."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from sgdat_jax import run_folder
from sgdat_jax.data.dataset import Dataset
from sgdat_jax.run_folder import formats
from sgdat_jax.training import checkpoint, settings, states
from sgdat_jax.training.devices import hosts, parallel
from sgdat_jax.training.metrics import records

_Settings = TypeVar("_Settings", bound=settings.Upkeep)


class Progress(NamedTuple):
    """How far a run has come: everything but its state."""

    lines: tuple[formats.EpochLine, ...] = ()  # one per epoch that has ended
    times: tuple[formats.Times, ...] = ()  # of the same epochs
    seconds: float = 0.0  # of the whole run so far
    steps: int = 0  # of the epoch under way
    epoch_seconds: float = 0.0  # that these took
    record: records.EpochRecord | None = None  # of these


class Run(NamedTuple):
    """A run that is set up: all that its next step needs."""

    config: settings.Settings
    folder: pathlib.Path | None  # None: nothing is written
    dataset: Dataset
    task: states.Task
    state: states.TrainState
    steps_per_epoch: int
    data: Mapping[str, str]  # fingerprint of the data set
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

    config: settings.Settings
    dataset: Dataset
    task: states.Task
    init: states.Init
    steps_per_epoch: int
    data: Mapping[str, str]  # fingerprint of the data set


def with_devices(config: _Settings) -> _Settings:
    """Returns settings with the number of devices of this host in place of None."""
    return dataclasses.replace(config, devices=device_count(config.devices))


def check_fits(options: settings.Passes, dataset: Dataset) -> None:
    """Raises ValueError unless these options fit the images."""
    num_images = len(dataset.train_images)
    if options.batch_size > num_images:
        smaller = max(1, num_images // 4)
        raise ValueError(
            f"batch_size must be at most the {num_images:,} training images, got "
            f"{options.batch_size:,}; {smaller:,} would make {num_images // smaller} "
            "steps an epoch."
        )
    steps = options.epochs * steps_per_epoch(options, dataset)
    if steps >= settings.MOST_STEPS:
        raise ValueError(
            f"epochs must have fewer than {settings.MOST_STEPS:,} steps in all, got "
            f"{options.epochs} of {steps_per_epoch(options, dataset)} each."
        )
    side = min(dataset.input_shape[:2])
    if options.crop_padding >= side:
        raise ValueError(
            f"crop_padding must be less than the {side} pixels of an image's side, got "
            f"{options.crop_padding}."
        )
    if streams(options, dataset) and importlib.util.find_spec("grain") is None:
        raise ValueError(
            "so many training images need grain: pip install grain, or raise "
            f"stream_above, got {options.stream_above}."
        )


def steps_per_epoch(options: settings.Passes, dataset: Dataset) -> int:
    """Returns the training steps of an epoch: its whole batches."""
    return len(dataset.train_images) // options.batch_size


def lay_out(options: settings.Upkeep) -> parallel.Layout:
    """Returns the devices of a run and how arrays lie on them.

    Raises:
      ValueError: if a host has fewer.
    """
    return parallel.lay_out(devices(options.devices), sharded=options.sharded)


def devices(count: int | None) -> list[jax.Device]:
    """Returns the devices to train on: ``count`` of each host.

    Raises:
      ValueError: if a host has fewer.
    """
    local = jax.local_device_count()
    count = device_count(count)
    if count > local:
        raise ValueError(f"devices must be at most the {local} there are, got {count}.")
    return [
        device
        for process in range(jax.process_count())
        for device in jax.local_devices(process)[:count]
    ]


def device_count(count: int | None) -> int:
    """Returns how many devices of this host to train on; None: its default."""
    if count is not None:
        return count
    return 1 if jax.default_backend() == "cpu" else jax.local_device_count()


def begin(plan: Plan, seed: int, folder: pathlib.Path | None) -> Run:
    """Makes the run folder and the first state; runs of one plan share their programs.

    Raises:
      ValueError: if the run folder holds something or cannot be written.
    """
    run, lock = unstarted(plan, seed, folder), None
    with hosts.failing_together():
        if run.folder is not None and hosts.is_writer():
            lock = run_folder.create(run.folder, run.config, data=run.data)
    return run._replace(state=plan.init(np.uint32(seed)), lock=lock)


def go_on(plan: Plan, seed: int, folder: pathlib.Path) -> Run:
    """Returns the run in a folder from its last whole checkpoint, or from its start.

    If the folder is new or empty, this is `begin`.

    Raises:
      ValueError: as in `resume`.
    """
    if hosts.as_writer(run_folder.is_empty(folder)):
        return begin(plan, seed, folder)
    is_longer = check_recorded(folder, dataclasses.replace(plan.config, seed=seed))
    hosts.meet("before the config is written anew")
    with hosts.failing_together():
        lock = _lock(folder) if hosts.is_writer() else None
    try:
        is_finished = bool(hosts.as_writer(run_folder.is_finished(folder)))
        run = unstarted(plan, seed, folder)
        if not is_finished or is_longer:
            return _reopen(run, folder, plan.init, is_finished)._replace(lock=lock)
        run = _as_finished(run, folder)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    if lock is not None:
        lock.release()
    return run


def _lock(folder: pathlib.Path) -> Any:
    try:
        return run_folder.lock(folder)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}.") from None


def _reopen(
    run: Run, folder: pathlib.Path, init: states.Init, is_finished: bool
) -> Run:
    """Returns a run where its last whole checkpoint is, or else at its start.

    Raises:
      ValueError: if it is a finished run without a whole checkpoint.
    """
    with hosts.failing_together():
        if hosts.is_writer():
            check_data(run, folder)
    saved = folder / run_folder.CHECKPOINTS
    step = checkpoint.newest_whole(saved)[0] if is_finished else 0
    with hosts.failing_together():
        if step < 0:
            raise ValueError(
                f"{folder} holds a finished run whose states are damaged or gone: "
                f"it cannot go on to epochs={run.config.epochs}; choose another "
                "run_dir."
            )
    found, notes = checkpoint.restore_newest_whole(saved, run.state)
    run = run._replace(notes=tuple(notes))
    if found is None:
        run = run._replace(state=init(np.uint32(run.config.seed)))
    else:
        run = at(run, found)
    if hosts.is_writer() and not is_over(run):
        run_folder.write_epochs(folder, run.progress.lines, run.progress.times)
        run_folder.reopen(folder, run.config, run.data)
    return run


def check_data(run: Run, folder: pathlib.Path) -> None:
    """Raises ValueError if a run's data set is not the one that its folder names."""
    run_folder.check_data(
        folder / run_folder.CONFIG,
        run_folder.read_data(folder),
        run.data,
        allow=run.config.allow_changed_data,
    )


def _as_finished(run: Run, folder: pathlib.Path) -> Run:
    """Returns a finished run with its last state, and changes nothing.

    Without a whole checkpoint of its end, the state has shapes alone and there is no
    progress.

    Raises:
      ValueError: if the result is damaged.
    """
    run_folder.read_result(folder)
    saved = folder / run_folder.CHECKPOINTS
    step, damage = checkpoint.newest_whole(saved)
    run = run._replace(notes=tuple(damage.values()))
    last = at(run, checkpoint.restore(saved, run.state, step)) if step >= 0 else run
    return last if is_over(last) else run


def is_over(run: Run) -> bool:
    """Returns whether all epochs of a run have ended, as far as its state knows."""
    return len(run.progress.lines) == run.config.epochs


def check_recorded(folder: pathlib.Path, config: settings.Settings) -> bool:
    """Raises ValueError unless a run in a folder may go on with a config.

    Returns:
      Whether the config has more epochs than were recorded.
    """
    recorded = run_folder.read_config(folder, type(config))
    run_folder.check_same(folder, recorded, config, free=("epochs",))
    if config.epochs < recorded.epochs:
        raise ValueError(
            f"epochs must be at least the {recorded.epochs} of the run in {folder}, "
            f"got {config.epochs}."
        )
    return config.epochs > recorded.epochs


def checkpoint_of(run: Run) -> checkpoint.Checkpoint:
    """Returns the checkpoint of a run."""
    progress = run.progress._asdict()
    if run.progress.record is not None:
        progress["record"] = run.progress.record.sums()
    return checkpoint.Checkpoint(run.state, progress)


def where_saved(run: Run) -> str:
    """Returns the end of a sentence on a run that diverged."""
    return f"; the last good state is in {run.folder}" if run.folder else ""


def is_streamed(plan: Plan | Run) -> bool:
    """Returns whether the training images go to the device batch by batch."""
    return streams(plan.config, plan.dataset)


def streams(options: settings.Passes, dataset: Dataset) -> bool:
    """Returns whether there are too many training images to copy to the device."""
    return dataset.train_images.nbytes > options.stream_above * 1e9


def unstarted(plan: Plan, seed: int, folder: pathlib.Path | None) -> Run:
    """Returns a run whose state holds shapes instead of arrays."""
    run_dir = None if folder is None else str(folder)
    return Run(
        config=dataclasses.replace(plan.config, seed=seed, run_dir=run_dir),
        folder=folder,
        dataset=plan.dataset,
        task=plan.task,
        state=plan.task.layout.shapes(jax.eval_shape(plan.init, np.uint32(seed))),
        steps_per_epoch=plan.steps_per_epoch,
        data=plan.data,
    )


def _check_progress(run: Run, found: checkpoint.Checkpoint) -> None:
    """Raises ValueError unless what was saved of a run's progress fits the run."""
    assert run.folder is not None
    step = int(found.state.step)
    file = checkpoint.progress_file(run.folder / run_folder.CHECKPOINTS, step)
    progress = formats.check(file, found.progress, formats.Progress)
    epochs = len(progress["lines"])
    done = epochs * run.steps_per_epoch + progress["steps"]
    if epochs > run.config.epochs or done != step:
        raise ValueError(
            f"{file} is damaged: {epochs} epochs and {progress['steps']} steps are not "
            f"{step} steps of {run.config.epochs} epochs."
        )


def at(run: Run, found: checkpoint.Checkpoint) -> Run:
    """Returns a run where it was when a checkpoint was saved."""
    _check_progress(run, found)
    lists = {name: tuple(found.progress[name]) for name in ("lines", "times")}
    progress = Progress(**found.progress | lists)
    if found.progress["record"] is not None:
        record = records.EpochRecord(found.progress["record"])
        progress = progress._replace(record=record)
    return run._replace(state=found.state, progress=progress)
