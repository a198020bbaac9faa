"""Where decoded pictures are kept: a folder of arrays for each way to decode them."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sgdat_jax import files
from sgdat_jax.data import arrays

_FORMAT = 1  # of the cache, and of what decoding gives
_ABOUT = "about.json"
_KEY = re.compile("[0-9a-f]{16}")  # what `digest` returns


@contextlib.contextmanager
def locked(
    name: str, place: pathlib.Path, cache: str | pathlib.Path | None
) -> Iterator[pathlib.Path | None]:
    """Gives the folder of what is decoded of a set, while no other process writes.

    Where the user's cache cannot be written, it is None.

    Args:
      name: of the set.
      place: where its pictures are.
      cache: folder of decoded sets; None: one in the user's cache.

    Raises:
      ValueError: if `cache` is given and cannot be written.
    """
    import filelock

    inner = f"{name[:40]}-{digest(str(place.resolve()))}"
    try:
        folder = (
            (pathlib.Path(cache) if cache else files.of_caches()) / "pictures" / inner
        )
        files.make([folder], "data_dir")
    except (RuntimeError, ValueError):
        if cache:
            raise
        yield None
        return
    try:
        files.check_no_link(folder / "lock")
    except OSError as error:
        raise files.not_writable(folder, "data_dir", error) from None
    with _held(filelock.FileLock(folder / "lock"), name):
        for path in _entries(folder, files.PARTIAL):
            files.remove(path)  # of a process that was killed
        yield folder


@contextlib.contextmanager
def _held(lock: Any, name: str) -> Iterator[None]:
    """Holds a lock, and says in a terminal that it waits for another process."""
    import filelock

    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        with _status(f"waiting for another process that decodes {name}"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _status(said: str) -> contextlib.AbstractContextManager[Any]:
    from rich import console, text

    terminal = console.Console(stderr=True)
    if terminal.is_terminal:
        return terminal.status(text.Text(said))
    return contextlib.nullcontext()


def digest(value: Any) -> str:
    """Returns what changes with a value, as in JSON, and with the cache's format."""
    text = json.dumps([_FORMAT, value], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entries(folder: pathlib.Path, suffix: str = "") -> list[pathlib.Path]:
    """Returns the entries of the cache in a folder, and nothing else that is there."""
    return [
        path
        for path in files.entries(folder)
        if _KEY.fullmatch(path.name.removesuffix(suffix))
        and path.name.endswith(suffix)
        and files.is_folder(path)
    ]


def read(entry: pathlib.Path, version: str) -> dict[str, Any] | None:
    """Returns the arrays of an entry, by name, and what `write_about` was given.

    None stands for one that is not there, damaged, or of another version.
    """
    try:
        about = files.read_json(entry / _ABOUT)
        if about["version"] != version:
            return None
        fields = {name: arrays.read(entry / f"{name}.npy") for name in arrays.FIELDS}
        return {"about": about["about"], **fields}
    except (KeyError, ValueError):
        return None


def write_about(folder: pathlib.Path, version: str, about: Mapping[str, Any]) -> None:
    """Writes the version of an entry, and more to say of it."""
    files.write_json(folder / _ABOUT, {"version": version, "about": about})


def remove_outdated(folder: pathlib.Path, version: str) -> None:
    """Removes the entries of other versions."""
    for entry in _entries(folder):
        with contextlib.suppress(ValueError):
            if files.read_json(entry / _ABOUT).get("version") != version:
                files.remove(entry)


@contextlib.contextmanager
def filling(entry: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder that takes the place of an entry, once the block has ended.

    Raises:
      ValueError: if it cannot be written.
    """
    partial = entry.with_name(entry.name + files.PARTIAL)
    try:
        files.make_inner(partial)
        yield partial
        for file in files.entries(partial):
            # Before it counts as whole: a lost machine would leave black images.
            with file.open("r+b") as data:
                os.fsync(data.fileno())
        files.remove(entry)
        partial.rename(entry)
    except OSError as error:
        reason = str(error.strerror).removesuffix(".")  # of `files.whole`
        raise ValueError(
            f"The decoded pictures cannot be kept in {entry.parent}: {reason}; "
            "data_dir may name another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def allocate(
    folder: pathlib.Path | None, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns an array of bytes to be filled, on disk if there is a folder.

    Args:
      folder: of the array. A file of that name is replaced, and its array stays whole.
      name: of the array.
      shape: of the array.

    Raises:
      OSError: if there is no room.
    """
    if folder is None:
        return np.empty(shape, np.uint8)
    path = folder / f"{name}.npy"
    path.unlink(missing_ok=True)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        # Where the disk is full, this is an error, and writing to the map a crash.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
