"""Keeps the results of a run while it trains, in its folder or in memory alone."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
from flax import nnx

from sgdat_jax import run_folder
from sgdat_jax.inference import weight_files
from sgdat_jax.run_folder import formats
from sgdat_jax.training import checkpoint, runs
from sgdat_jax.training.devices import hosts

# Entries of an epoch's line that go into its file of weights.
_REACHED = ("epoch", "test_accuracy", "test_loss", "valid_accuracy", "valid_loss")


class Weights(NamedTuple):
    """The weights of an epoch, on the host."""

    params: nnx.State
    stats: nnx.State


class Keeper(contextlib.AbstractContextManager[Any], Protocol):
    """Keeps the results of a run; a context manager for as long as it trains."""

    def save(self, run: runs.Run) -> None:
        """Saves the state of a run, from where it can go on."""

    def wait(self) -> None:
        """Waits until what was saved is on disk."""

    def end_epoch(
        self, run: runs.Run, line: Mapping[str, Any], times: Mapping[str, Any]
    ) -> None:
        """Keeps the lines of an epoch, and its weights if they are the best or last."""

    def diverge(self, run: runs.Run) -> None:
        """Keeps where a run diverged."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keeps the result of a run."""

    def best(self, run: runs.Run) -> Weights:
        """Returns the weights of the best epoch."""


def of(run: runs.Run) -> Keeper:
    """Returns what keeps a run: its folder if it has one, or else memory."""
    if run.folder is None:
        return _Memory()
    return _Folder(run.folder, run.config.keep_states)


class _Memory(contextlib.nullcontext[Any]):
    """Keeps the weights of the best epoch and nothing else."""

    def __init__(self) -> None:
        super().__init__(self)
        self._best: Weights | None = None

    def save(self, run: runs.Run) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""

    def end_epoch(
        self, run: runs.Run, line: Mapping[str, Any], times: Mapping[str, Any]
    ) -> None:
        if _is_best(run, line):
            self._best = _weights(run)

    def diverge(self, run: runs.Run) -> None:
        """Does nothing."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Does nothing."""

    def best(self, run: runs.Run) -> Weights:
        assert self._best is not None  # as every epoch has ended
        return self._best


class _Folder:
    """Keeps a run in its folder."""

    def __init__(self, folder: pathlib.Path, keep_states: int):
        self._folder = folder
        self._lock = run_folder.lock_there(folder)
        self._saver = checkpoint.Saver(folder / run_folder.CHECKPOINTS, keep_states)

    def __enter__(self) -> "_Folder":
        self._saver.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._saver.__exit__(*exception)

    def save(self, run: runs.Run) -> None:
        self._check_there()
        self._saver.save(runs.checkpoint_of(run))

    def wait(self) -> None:
        self._saver.wait()

    def end_epoch(
        self, run: runs.Run, line: Mapping[str, Any], times: Mapping[str, Any]
    ) -> None:
        self._check_there()
        names = []
        if _is_best(run, line):
            names.append(run_folder.BEST)
        if line["epoch"] == run.config.epochs:
            names.append(run_folder.LAST)
        self._write_weights(run, line, names)
        if hosts.is_writer():
            run_folder.append_epoch(self._folder, line, times)

    def _write_weights(
        self, run: runs.Run, line: Mapping[str, Any], names: list[str]
    ) -> None:
        if not names:
            return
        details = {
            "mean": run.task.mean,
            "std": run.task.std,
            "class_names": run.dataset.class_names,
            "input_shape": run.dataset.input_shape,
            "resize": run.dataset.resize,
            "config": dataclasses.asdict(run.config),
            "data": run.data,
            "reached": {k: line[k] for k in _REACHED if k in line},
        }
        weights = _weights(run)
        for name in names if hosts.is_writer() else ():
            weight_files.write(self._folder / name, run.task.network, *weights, details)

    def _check_there(self) -> None:
        if hosts.is_writer():
            run_folder.check_there(self._folder, self._lock)

    def diverge(self, run: runs.Run) -> None:
        self._check_there()
        if hosts.is_writer():
            epoch = len(run.progress.lines) + 1
            run_folder.write_diverged(self._folder, epoch, run.steps_done)

    def finish(self, result: Mapping[str, Any]) -> None:
        self._check_there()
        if hosts.is_writer():
            run_folder.write_result(self._folder, result)

    def best(self, run: runs.Run) -> Weights:
        file = self._folder / run_folder.BEST
        return Weights(*weight_files.read(file, run.state.params, run.state.stats))


def _is_best(run: runs.Run, line: Mapping[str, Any]) -> bool:
    """Returns whether an epoch is better than all before it; a tie is not."""
    key = formats.selecting(line)
    before = (old[key] for old in run.progress.lines)  # type: ignore[literal-required]
    return bool(line[key] > max(before, default=-1))


def _weights(run: runs.Run) -> Weights:
    trained = Weights(run.state.params, run.state.stats)
    return jax.device_get(run.task.layout.gather(trained))
