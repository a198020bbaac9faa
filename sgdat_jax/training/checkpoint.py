"""Saving and restoring the state of a run, with Orbax.

A folder has one checkpoint per saved step: ``STEP/state``, written by Orbax,
``STEP/progress.json`` and, written last, ``STEP/sha256.json`` with the digests of all
its files. Without the latter a checkpoint is not whole yet, and does not count.

Other files may be there as well; they are ignored and stay.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sgdat_jax import files, loggers
from sgdat_jax.training import states
from sgdat_jax.training.devices import hosts

with loggers.kept():
    import orbax.checkpoint as ocp

_STATE = "state"
_PROGRESS = "progress.json"
# Orbax overlooks some damage and reports the rest from threads of its own, so damage is
# found by these before Orbax reads.
_DIGESTS = "sha256.json"
_DAMAGED = "damaged"  # ends the names of damaged checkpoints
_OLD_PARTIALS = ("progress.partial", "sha256.partial")  # of former versions
_OLD_STATE = "default"  # in the checkpoints of version 0.1
_STEP = re.compile(r"0|[1-9][0-9]*")
# What Orbax calls a state that it has not finished, and what is in one.
_UNFINISHED = f"{_STATE}.orbax-checkpoint-tmp"
_ORBAX = re.compile(
    r"_\w+|array_metadatas|commit_success\.txt|d|manifest\.ocdbt|[0-9a-f]{32}|"
    r"(ocdbt\.)?process_[0-9]+.*",
    re.ASCII,
)


class Checkpoint(NamedTuple):
    """What is saved of a run."""

    state: states.TrainState
    progress: dict[str, Any]  # JSON: all that is not in arrays


class Saver:
    """Saves the states of one run in the background, and keeps the last of them.

    Use it as a context manager, which waits at its end for the last one to be on disk.
    Only one saver may work on a folder at a time.

    Args:
      folder: of the checkpoints; made if it is not there. What is left in it of saving
        that was cut short is removed, and nothing else.
      keep: how many checkpoints to keep, at least 1.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        self._folder = folder.absolute()
        self._keep = keep
        self._checkpointer = ocp.StandardCheckpointer()
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future[None] | None = None
        self._saved: int | None = None  # step of the newest checkpoint
        self._quiet = contextlib.ExitStack()

    def __enter__(self) -> "Saver":
        """Cleans the folder up.

        Raises:
          OSError: if the folder is a symbolic link or cannot be written.
        """
        if hosts.is_writer():
            files.make_inner(self._folder)
            _clean_up(self._folder)
        self._quiet.enter_context(loggers.quiet())
        found = steps(self._folder)
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
            # It may raise again, without a name, what `wait` has raised.
            with self._quiet, contextlib.suppress(OSError):
                self._checkpointer.close()

    def save(self, checkpoint: Checkpoint) -> None:
        """Begins to save a checkpoint, unless the newest one is of the same step.

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
            if hosts.is_writer():
                _check_free(path)
            self._checkpointer.save(path / _STATE, _copy(checkpoint.state))
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
            try:
                _remove(self._folder / str(step))
            except ValueError:
                files.set_aside(self._folder / str(step), _DAMAGED)


def _saved(leaf: Any) -> Any:
    """Returns an array as Orbax saves it, which takes none without entries."""
    return jnp.copy(leaf) if leaf.size else jnp.zeros(1, leaf.dtype)


_copy = jax.jit(lambda state: jax.tree.map(_saved, state))


def steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of all whole checkpoints in a folder, the newest last."""
    return sorted(int(path.name) for path in _step_folders(folder) if _is_whole(path))


def progress_file(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Returns where the progress of a checkpoint is."""
    return folder / str(step) / _PROGRESS


def newest_whole(folder: pathlib.Path) -> tuple[int, dict[int, str]]:
    """Looks for the newest checkpoint that is not damaged, and changes nothing.

    Of several processes all call this together.

    Returns:
      Its step, -1 if there is none, and what is wrong with each newer one, by step;
      processes that do not write are not told the latter.

    Raises:
      OSError: if a file that is there cannot be read: that is no damage.
    """
    newest, damage = -1, {}
    with hosts.failing_together():
        for step in reversed(steps(folder)) if hosts.is_writer() else ():
            try:
                _check(folder / str(step))
            except ValueError as error:
                damage[step] = str(error)
            else:
                newest = step
                break
    return hosts.as_writer(newest), damage


def restore(
    folder: pathlib.Path, like: states.TrainState, step: int | None = None
) -> Checkpoint:
    """Restores a checkpoint.

    Args:
      folder: that of a `Saver`.
      like: a state of the same run, for structure, shapes, dtypes and placement.
      step: of the checkpoint; None: the newest.

    Raises:
      ValueError: if there is no checkpoint, or it is damaged or does not fit ``like``.
      OSError: if a file that is there cannot be read.
    """
    if step is None:
        step = _newest(folder)
    path = folder / str(step)
    _check(path)
    abstract = jax.tree.map(
        lambda x: ocp.utils.to_shape_dtype_struct(x if x.size else _saved(x)), like
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(path.absolute() / _STATE, abstract)
    except Exception as error:  # what Orbax raises is not of one kind
        raise ValueError(
            f"{path} is not a checkpoint of this run: {_first_words(error)}"
        ) from None
    state = jax.tree.map(lambda x, y: y if x.size else jnp.zeros_like(x), like, state)
    return Checkpoint(state, files.read_json(path / _PROGRESS))


def restore_newest_whole(
    folder: pathlib.Path, like: states.TrainState
) -> tuple[Checkpoint | None, list[str]]:
    """Restores the newest checkpoint that is not damaged, and sets newer ones aside.

    Args:
      folder: that of a `Saver`.
      like: as in `restore`.

    Returns:
      The checkpoint, None if there is none, and a message for each damaged one.

    Raises:
      ValueError: if an undamaged checkpoint does not fit ``like``.
      OSError: if a file that is there cannot be read, or a damaged checkpoint cannot be
        renamed.
    """
    step, damage = newest_whole(folder)
    found = None if step < 0 else restore(folder, like, step)
    messages = [
        f"{message} It is now {files.set_aside(folder / str(number), _DAMAGED).name}."
        for number, message in damage.items()
    ]
    return found, messages


def _newest(folder: pathlib.Path) -> int:
    found = steps(folder)
    if found:
        return found[-1]
    if any((path / _OLD_STATE).exists() for path in _step_folders(folder)):
        raise ValueError(
            f"{folder} was written by version 0.1 of sgdat-jax, whose checkpoints this "
            "version cannot read."
        )
    raise ValueError(f"{folder} holds no checkpoint.")


def _step_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [
        path
        for path in files.entries(folder)
        if _STEP.fullmatch(path.name) and files.is_folder(path)
    ]


def _is_whole(path: pathlib.Path) -> bool:
    return files.is_file(path / _DIGESTS)


def _check_free(path: pathlib.Path) -> None:
    """Raises OSError if something else is in the place of a new checkpoint."""
    in_place = path / _STATE if files.is_folder(path) else path
    if os.path.lexists(in_place):
        raise OSError(f"{in_place} does not belong to this run; move it away.")


def _clean_up(folder: pathlib.Path) -> None:
    """Removes what a killed process has left of checkpoints that are not whole.

    A state with other files in it is renamed, as it would be in the way of a new one.
    """
    for path in _step_folders(folder):
        if _is_whole(path):
            continue
        if _is_mixed(path / _STATE):
            files.set_aside(path, "unfinished")
            continue
        before = files.entries(path)
        files.remove_partials(path, _OLD_PARTIALS)
        for part in files.entries(path):
            if _is_left_over(part):
                files.remove(part)
        if before:
            files.remove_empty([path])


def _is_left_over(part: pathlib.Path) -> bool:
    """Returns whether the part of a checkpoint, not whole, was written by a saver."""
    if not files.is_folder(part):
        return part.name == _PROGRESS and files.is_regular(part)
    if part.name.startswith(_UNFINISHED):
        return True
    return part.name == _STATE and _is_orbax_alone(part)


def _is_mixed(state: pathlib.Path) -> bool:
    """Returns whether a state of Orbax holds other files as well."""
    is_state = files.is_folder(state) and any(
        files.is_file(state / name) for name in ("_METADATA", "_CHECKPOINT_METADATA")
    )
    return is_state and not _is_orbax_alone(state)


def _is_orbax_alone(state: pathlib.Path) -> bool:
    return all(
        _ORBAX.fullmatch(entry.name) and not entry.is_symlink()
        for entry in state.rglob("*")
    )


def _remove(path: pathlib.Path) -> None:
    """Removes the files of a whole checkpoint, and its folder if nothing else is there.

    The digests go first: without them the rest does not count.
    """
    known = {path / name for name in _expected(path)}
    known.add(path / _DIGESTS)
    folders = {parent for file in known for parent in file.parents}
    (path / _DIGESTS).unlink()
    for entry in sorted(path.rglob("*"), reverse=True):  # a folder after what is in it
        if entry.is_symlink():
            continue
        if entry in folders:
            files.remove_empty([entry])
        elif entry in known:
            entry.unlink()
    files.remove_empty([path])


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _digests(path: pathlib.Path) -> dict[str, str]:
    """Returns the digests of the files that a saver has just written."""
    state = (file for file in sorted((path / _STATE).rglob("*")) if file.is_file())
    return {
        file.relative_to(path).as_posix(): _digest(file)
        for file in (path / _PROGRESS, *state)
    }


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _expected(path: pathlib.Path) -> dict[str, str]:
    """Returns the digests that a saver left in a checkpoint.

    Raises:
      ValueError: if they are damaged.
    """
    try:
        expected = json.loads((path / _DIGESTS).read_text())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{_DIGESTS} cannot be read: {error}") from None
    if not isinstance(expected, dict) or _PROGRESS not in expected:
        raise _damaged(path, f"{_DIGESTS} holds no digests")
    return expected


def _check(path: pathlib.Path) -> None:
    """Raises ValueError if a file of a checkpoint is not as the saver left it."""
    for name, digest in sorted(_expected(path).items()):
        if not files.is_file(path / name):
            raise _damaged(path, f"{name} is missing")
        if _digest(path / name) != digest:
            raise _damaged(path, f"{name} has changed")


def _damaged(path: pathlib.Path, why: str) -> ValueError:
    return ValueError(f"{path} is a damaged checkpoint: {why}.")
