"""The epochs of a run: training, evaluation, and what is written on the way."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sgdat_jax import cpu
from sgdat_jax.data import stream
from sgdat_jax.data.dataset import Dataset
from sgdat_jax.run_folder import formats
from sgdat_jax.training import interruption, keepers, runs, states, steps
from sgdat_jax.training.devices import hosts, parallel
from sgdat_jax.training.metrics import records, results

_EVAL_BATCH = 512
_STEPS_ALONE = 16  # until several processes agree on what to do

# Images with labels, and their weights: 1, or 0 for what only fills the batch.
TestBatch = tuple[steps.Batch, jax.Array]


class Watcher:
    """Is told how a run gets on, and ignores it; subclasses show it."""

    def stepped(self, metrics: steps.Metrics, flip_ratio: jax.Array | None) -> None:
        """Hears of one step or more; the arrays have an entry for each.

        Without binary weights there is no flip ratio.
        """

    def epoch_trained(self, state: states.TrainState) -> None:
        """Hears of the state after the steps of an epoch, before it is evaluated.

        The next step takes the state's memory: what is kept must be copied.
        """

    def epoch_ended(self, line: formats.EpochLine) -> None:
        """Hears of an epoch, by its line of the metrics file."""


class Watchers(Watcher):
    """Tells several watchers.

    Args:
      watchers: in the order in which they hear.
    """

    def __init__(self, watchers: Sequence[Watcher]):
        self._watchers = watchers

    def stepped(self, metrics: steps.Metrics, flip_ratio: jax.Array | None) -> None:
        """Tells all."""
        for watcher in self._watchers:
            watcher.stepped(metrics, flip_ratio)

    def epoch_trained(self, state: states.TrainState) -> None:
        """Tells all."""
        for watcher in self._watchers:
            watcher.epoch_trained(state)

    def epoch_ended(self, line: formats.EpochLine) -> None:
        """Tells all."""
        for watcher in self._watchers:
            watcher.epoch_ended(line)


def train(
    run: runs.Run,
    watcher: Watcher,
    check: interruption.Check = interruption.never,
    keeper: keepers.Keeper | None = None,
) -> tuple[runs.Run, dict[str, Any]]:
    """Trains, evaluates after each epoch and keeps the results.

    Args:
      run: a run at its start or anywhere else.
      watcher: is told how it gets on.
      check: raises `interruption.Interrupted` to end the run early.
      keeper: keeps the run; None: its folder if it has one.

    Returns:
      The run with its last state, and the result that was kept.

    Raises:
      FloatingPointError: after ``max_skipped_steps`` in a row that were not finite, or
        an epoch of such steps alone; it is recorded in the folder, if there is one.
      interruption.Interrupted: what ``check`` raised. In both cases the last good state
        is saved.
      OSError: if the folder cannot be written any more.
    """
    keeper = keeper or keepers.of(run)
    is_due = _timer(run)
    calls = _advance(run, keeper, watcher, check)
    may_meet = _meetings(run.steps_done)
    try:
        with keeper:
            try:
                for run in calls:
                    if not may_meet(run.steps_done):
                        continue
                    if hosts.any_of(is_due(run.steps_done)):
                        keeper.save(run)
                    _check_together(check)
                keeper.save(run)
            except (FloatingPointError, interruption.Interrupted) as error:
                keeper.save(run)
                keeper.wait()
                if isinstance(error, FloatingPointError):
                    keeper.diverge(run)
                raise
        result = results.result_of(run)
        keeper.finish(result)
    finally:
        if run.lock is not None:
            run.lock.release()
    return run, result


def evaluate(
    run: runs.Run,
    tests: Iterable[TestBatch] | None = None,
    check: interruption.Check = interruption.never,
    part: str = "test",
) -> dict[str, float]:
    """Returns loss and accuracies on a whole part of the data, as in a line of metrics.

    Args:
      run: with the state to evaluate.
      tests: what `test_batches` gives, where it is at hand already.
      check: as in `train`.
      part: of the data set: ``"test"`` or ``"valid"``.
    """
    metrics = []
    evaluated = programs(run.task.layout.platform).eval_step
    for batch, weights in tests or test_batches(run.dataset, run.task.layout, part):
        metrics.append(evaluated(run.task, run.state, batch, weights))
        check()
    total = jax.tree.map(lambda *sums: float(np.sum(sums)), *metrics)
    return results.means(part, total._asdict())


def on_device(dataset: Dataset, layout: parallel.Layout) -> steps.Images:
    """Returns all training images, copied to each device."""
    images = steps.Images.of(dataset.train_images, dataset.train_labels)
    return layout.put_whole(images)


def epoch_order(plan: runs.Plan | runs.Run, seed: int, epoch: int) -> jax.Array:
    """Returns the image numbers of each step of an epoch, of shape (steps, batch)."""
    num_images = len(plan.dataset.train_images)
    return stream.epoch_order(seed, epoch, num_images, plan.config.batch_size)


def test_batch_size(images: int, layout: parallel.Layout) -> int:
    """Returns how many of so many images are evaluated at once, on all devices."""
    share = -(-min(_EVAL_BATCH, images) // layout.devices)
    return share * layout.devices


def test_batches(
    dataset: Dataset, layout: parallel.Layout, part: str = "test"
) -> Iterator[TestBatch]:
    """Yields a part of a data set in batches of one size; weight 0 pads the last."""
    all_images = getattr(dataset, f"{part}_images")
    all_labels = getattr(dataset, f"{part}_labels")
    size = test_batch_size(len(all_images), layout)
    rows = layout.rows(size)
    for start in range(0, len(all_images), size):
        images = all_images[start : start + size]
        labels = all_labels[start : start + size]
        missing = size - len(images)
        whole = (
            np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
            np.pad(labels, (0, missing)),
            (np.arange(size) < len(images)).astype(np.float32),
        )
        *batch, weights = layout.put_rows(tuple(x[rows] for x in whole))
        yield steps.Batch(*batch), weights


class Programs(NamedTuple):
    """Functions of `step`, compiled."""

    train_steps: Any
    train_batch: Any
    eval_step: Any
    begin_epoch: Any


def programs(platform: str | None = None) -> Programs:
    """Returns the programs of training.

    Args:
      platform: of the devices that they are compiled for; None: of those that jax
        chooses.
    """
    return _programs(platform or jax.default_backend())


@functools.cache
def _programs(platform: str) -> Programs:
    options = cpu.compiler_options(platform)
    compiled = functools.partial(jax.jit, static_argnums=0, compiler_options=options)
    return Programs(
        train_steps=compiled(steps.train_steps, donate_argnums=1),
        train_batch=compiled(steps.train_batch, donate_argnums=1),
        eval_step=compiled(steps.eval_step),
        begin_epoch=compiled(steps.begin_epoch),
    )


def _meetings(met: int) -> Callable[[int], bool]:
    """Returns a function that says after a step whether processes agree on what to do.

    All say the same, whatever steps they take at once. One process always may.

    Args:
      met: steps that were done when they last did.
    """

    def may_meet(step: int) -> bool:
        nonlocal met
        if jax.process_count() > 1 and step - met < _STEPS_ALONE:
            return False
        met = step
        return True

    return may_meet


def _check_together(check: interruption.Check) -> None:
    """Raises Interrupted in all processes if one of them is interrupted."""
    interrupted = None
    try:
        check()
    except interruption.Interrupted as error:
        interrupted = error
    if hosts.any_of(interrupted is not None):
        raise interrupted or interruption.Interrupted("a signal to another process")


def _timer(run: runs.Run) -> Callable[[int], bool]:
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


def _advance(
    run: runs.Run, keeper: keepers.Keeper, watcher: Watcher, check: interruption.Check
) -> Iterator[runs.Run]:
    """Takes a run to its end; yields it after each call of a program and each epoch.

    Its caller may stop at each of them: the state is then still there.
    """
    start = time.perf_counter() - run.progress.seconds
    data = None
    parts = ["test"] if run.dataset.valid_images is None else ["valid", "test"]
    batches: dict[str, tuple[TestBatch, ...]] = {}  # none where they are streamed
    if not runs.is_streamed(run):
        layout = run.task.layout
        data = on_device(run.dataset, layout)
        for part in parts:
            batches[part] = tuple(test_batches(run.dataset, layout, part))
    while len(run.progress.lines) < run.config.epochs:
        calls = _train_epoch(run, data, watcher)
        for run in calls:
            seconds = time.perf_counter() - start
            yield run._replace(progress=run.progress._replace(seconds=seconds))
        watcher.epoch_trained(run.state)
        line, times = results.epoch_lines(run)
        now = check if jax.process_count() == 1 else interruption.never
        for part in parts:
            found: Any = evaluate(run, batches.get(part), now, part)
            line |= found
        keeper.end_epoch(run, line, times)
        progress = runs.Progress(
            lines=(*run.progress.lines, line),
            times=(*run.progress.times, times),
            seconds=time.perf_counter() - start,
        )
        run = run._replace(progress=progress)
        told: Any = line | times
        watcher.epoch_ended(told)
        yield run


def _train_epoch(
    run: runs.Run, data: steps.Images | None, watcher: Watcher
) -> Iterator[runs.Run]:
    """Takes the steps of an epoch that are left; yields the run after each call."""
    start = time.perf_counter() - run.progress.epoch_seconds
    if run.progress.steps == 0 and run.task.diagnostics:
        begin = programs(run.task.layout.platform).begin_epoch
        run = run._replace(state=begin(run.task, run.state))
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
        # That of the call before: this one may still be under way.
        _check_finite(run, last)
        last = weights.skipped
    _check_finite(run, last)
    jax.block_until_ready(run.state)
    seconds = time.perf_counter() - start
    yield run._replace(progress=run.progress._replace(epoch_seconds=seconds))


def _check_finite(run: runs.Run, skipped: jax.Array | None) -> None:
    """Raises FloatingPointError after too many steps in a row that were skipped."""
    most = 0 if skipped is None else int(np.asarray(skipped).max())
    if most < run.config.max_skipped_steps:
        return
    raise FloatingPointError(
        f"the loss or gradients of {most} steps in a row are not "
        f"finite, before step {run.steps_done}{runs.where_saved(run)}"
    )


def _steps(
    run: runs.Run, data: steps.Images | None
) -> Iterator[tuple[states.TrainState, steps.Record]]:
    """Takes the steps of an epoch; yields the state after each call, and its record.

    Args:
      run: at the start of the epoch, or within it after any call.
      data: all training images; None: they are streamed.
    """
    state, layout = run.state, run.task.layout
    compiled = programs(layout.platform)
    order = np.asarray(epoch_order(run, run.config.seed, len(run.progress.lines)))
    order = order[:, layout.rows(run.config.batch_size)]
    if data is None:
        left = order[run.progress.steps :]
        for batch in stream.batches(run.dataset, left, layout.put_rows):
            state, record = compiled.train_batch(run.task, state, steps.Batch(*batch))
            yield state, record
        return
    size = steps.steps_per_call(layout.platform)
    for first in range(run.progress.steps, len(order), size):
        indices = layout.put_rows(order[first : first + size], axis=1)
        state, record = compiled.train_steps(run.task, state, data, indices)
        yield state, record
