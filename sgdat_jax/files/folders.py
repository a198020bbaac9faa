"""Folders made, and files and folders removed or renamed, without following links."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterable, Sequence

from sgdat_jax.files import kinds

_PARTIAL_NAME = re.compile(r".+\.[0-9a-f]{8}\.partial", re.DOTALL)


def make(paths: Iterable[pathlib.Path], option: str = "run_dir") -> list[pathlib.Path]:
    """Makes folders, and those above them, unless they are there.

    Args:
      paths: of the folders.
      option: what gave the paths, for the message of an error.

    Returns:
      What was not there before, outermost first.

    Raises:
      ValueError: if one of them cannot be made or written; nothing is left on disk
        then.
    """
    made: list[pathlib.Path] = []
    for path in paths:
        try:
            for folder in (*reversed(path.parents), path):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)  # another process may be faster
                    made.append(folder)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            remove_empty(made)
            raise not_writable(path, option, error) from None
    return made


def make_inner(folder: pathlib.Path) -> None:
    """Makes a folder within a run folder, unless it is there.

    Raises:
      OSError: if that fails, or if a link or a file is in its place.
    """
    with kinds.naming(folder):
        kinds.check_no_link(folder)
        folder.mkdir(exist_ok=True)


def remove_empty(folders: Sequence[pathlib.Path]) -> None:
    """Removes the folders that are empty, the last first; the others stay."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # another process has filled it
            folder.rmdir()


def remove(path: pathlib.Path) -> None:
    """Removes a file, a link or a folder with all that is in it, if it is there."""
    if kinds.is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(folder: pathlib.Path, old: Collection[str] = ()) -> None:
    """Removes partial files that a killed process has left.

    Call it only while no other process writes to the folder.

    Args:
      folder: need not be there.
      old: names of partial files of former versions.
    """
    for path in kinds.entries(folder):
        is_ours = _PARTIAL_NAME.fullmatch(path.name) or path.name in old
        if is_ours and kinds.is_regular(path):
            path.unlink(missing_ok=True)


def of_caches() -> pathlib.Path:
    """Returns the folder of what can be made anew, and need not be there yet.

    Raises:
      RuntimeError: if the user has no home.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(caches, "sgdat_jax")


def set_aside(path: pathlib.Path, why: str) -> pathlib.Path:
    """Renames a file or folder to ``NAME.WHY``, or to one with a number that is free.

    Returns:
      The new path.

    Raises:
      OSError: if that fails; the message names it.
    """
    place, number = path.with_name(f"{path.name}.{why}"), 1
    while os.path.lexists(place):
        number += 1
        place = path.with_name(f"{path.name}.{why}-{number}")
    with kinds.naming(path):
        path.rename(place)
    return place


def not_writable(path: pathlib.Path, option: str, error: OSError) -> ValueError:
    """Returns the error of an option whose folder cannot be written."""
    reason = str(error.strerror).removesuffix(".")  # of `kinds.naming`
    return ValueError(
        f"{option} must be a folder that can be written, got {path}: {reason}."
    )
