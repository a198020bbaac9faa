"""Saving and restoring the state of a run, with Orbax.

A folder has one checkpoint per saved step: ``STEP/state``, written by Orbax,
``STEP/progress.json`` and, written last, ``STEP/sha256.json`` with the digests of all
its files. Without the latter a checkpoint is not whole yet, and does not count.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from sgdat_jax import files
from sgdat_jax.training import hosts
from sgdat_jax.training import state as state_lib

_STATE = "state"
_PROGRESS = "progress.json"
# Orbax overlooks some damage and reports the rest from threads of its own, so damage is
# found by these before Orbax reads.
_DIGESTS = "sha256.json"
_OLD_STATE = "default"  # in the checkpoints of version 0.1


class Checkpoint(NamedTuple):
    """What is saved of a run."""

    state: state_lib.TrainState
    progress: dict[str, Any]  # JSON: all that is not in arrays


class Saver:
    """Saves the states of one run in the background, and keeps the last of them.

    Use it as a context manager, which waits at its end for the last one to be on disk.
    Only one saver may work on a folder at a time.

    Args:
      folder: of the checkpoints; made if it is not there. What is left in it of saving
        that was cut short is removed.
      keep: how many checkpoints to keep, at least 1.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        self._folder = folder.absolute()
        self._keep = keep
        self._checkpointer = ocp.StandardCheckpointer()
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future[None] | None = None
        self._saved: int | None = None  # step of the newest checkpoint

    def __enter__(self) -> "Saver":
        """Cleans the folder up."""
        found = steps(self._folder)
        if hosts.is_writer():
            for path in self._folder.glob("*"):
                if path.name not in map(str, found):
                    shutil.rmtree(path)
        self._saved = hosts.as_writer(found[-1] if found else -1)
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for the last checkpoint.

        Raises:
          OSError: if it could not be saved, unless the block has raised.
        """
        try:
            self.wait()
        except OSError:
            if exception[0] is None:
                raise
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

    def save(self, checkpoint: Checkpoint) -> None:
        """Begins to save a checkpoint; does nothing if the newest is of its step.

        Of several processes all call this together.

        The state may be donated to the next step at once.

        Raises:
          OSError: if this one or the one before could not be saved.
        """
        self.wait()
        step = int(checkpoint.state.step)
        if step == self._saved:
            return
        self._saved, path = step, self._folder / str(step)
        # Orbax may read the arrays after it returns: on a CPU without a copy.
        with self._naming_failures():
            self._checkpointer.save(path / _STATE, _copy(checkpoint.state), force=True)
        self._saving = self._thread.submit(self._finish, path, checkpoint.progress)

    def wait(self) -> None:
        """Waits until what was saved is on disk.

        Raises:
          OSError: if it could not be saved.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            with self._naming_failures():
                saving.result()

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # what Orbax raises is not of one kind
            raise OSError(
                f"the state cannot be saved in {self._folder}: {_first_words(error)}"
            ) from None

    def _finish(self, path: pathlib.Path, progress: dict[str, Any]) -> None:
        self._checkpointer.wait_until_finished()
        if not hosts.is_writer():
            return
        files.write_json(path / _PROGRESS, progress, indent=None)
        files.write_json(path / _DIGESTS, _digests(path))
        for step in steps(self._folder)[: -self._keep]:
            shutil.rmtree(self._folder / str(step))


_copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


def steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of all whole checkpoints in a folder, the newest last."""
    paths = [path for path in folder.glob("*") if path.name.isdecimal()]
    return sorted(int(path.name) for path in paths if _is_whole(path))


def restore(folder: pathlib.Path, like: state_lib.TrainState) -> Checkpoint:
    """Restores the newest checkpoint.

    Args:
      folder: that of a `Saver`.
      like: a state of the same run, for structure, shapes, dtypes and placement.

    Raises:
      ValueError: if there is no checkpoint, or it is damaged or does not fit ``like``.
    """
    found = steps(folder)
    if not found:
        if any((path / _OLD_STATE).exists() for path in folder.glob("*")):
            raise ValueError(
                f"{folder} is of version 0.1 of sgdat-jax, whose checkpoints this "
                "version does not read."
            )
        raise ValueError(f"{folder} holds no checkpoint.")
    return _restore(folder / str(found[-1]), like)


def restore_newest_whole(
    folder: pathlib.Path, like: state_lib.TrainState
) -> tuple[Checkpoint | None, list[str]]:
    """Restores the newest checkpoint that is not damaged, and removes newer ones.

    Args:
      folder: that of a `Saver`.
      like: as in `restore`.

    Returns:
      The checkpoint, None if there is none, and a message for each damaged one.

    Raises:
      ValueError: if an undamaged checkpoint does not fit ``like``.
    """
    messages, newest = [], -1
    if hosts.is_writer():
        for step in reversed(steps(folder)):
            try:
                _check(folder / str(step))
            except ValueError as error:
                messages.append(str(error))
                shutil.rmtree(folder / str(step))
            else:
                newest = step
                break
    newest = hosts.as_writer(newest)
    return (None if newest < 0 else _restore(folder / str(newest), like)), messages


def _restore(path: pathlib.Path, like: state_lib.TrainState) -> Checkpoint:
    _check(path)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(path.absolute() / _STATE, abstract)
    except Exception as error:  # what Orbax raises is not of one kind
        raise ValueError(
            f"{path} is not a checkpoint of this run: {_first_words(error)}"
        ) from None
    return Checkpoint(state, files.read_json(path / _PROGRESS))


def _is_whole(path: pathlib.Path) -> bool:
    return (path / _DIGESTS).exists()


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _digests(path: pathlib.Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): _digest(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file != path / _DIGESTS
    }


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _check(path: pathlib.Path) -> None:
    """Raises ValueError if a file of a checkpoint is not as the saver left it."""
    try:
        expected = json.loads((path / _DIGESTS).read_text())
        found = _digests(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is a damaged checkpoint: {_DIGESTS} cannot be read: {error}."
        ) from None
    if expected == found:
        return
    if not isinstance(expected, dict):
        raise ValueError(
            f"{path} is a damaged checkpoint: {_DIGESTS} holds no digests."
        )
    names = sorted({*expected, *found})
    name = next(name for name in names if expected.get(name) != found.get(name))
    kind = "is missing" if name not in found else "has changed"
    raise ValueError(f"{path} is a damaged checkpoint: {name} {kind}.")
