"""The folder of a run: what is where in it, and who may write to it."""

import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sgdat_jax import files

if TYPE_CHECKING:
    import filelock

CONFIG = "config.json"
METRICS = "metrics.jsonl"
TIMES = "times.jsonl"
RESULT = "result.json"
DIVERGED = "diverged.json"
CHECKPOINTS = "checkpoints"
BEST = "best.npz"  # weights of the best epoch
LAST = "last.npz"  # weights of the last epoch
PLOTS = "plots"
TENSORBOARD = "tensorboard"
LOCK = "lock"
FORMAT = 1  # of the folder and all that is in it; 0 had neither this number nor TIMES
# A killed run of a former version leaves these.
_OLD_PARTIALS = frozenset(
    pathlib.Path(name).with_suffix(files.PARTIAL).name
    for name in (CONFIG, METRICS, TIMES, RESULT, DIVERGED, BEST, LAST, "sweep.json")
)


def check_path(path: pathlib.Path) -> None:
    """Raises ValueError if no run can be kept at a path.

    Orbax looks for its own files by a pattern, and would lose the checkpoint. Names
    that are not UTF-8 it cannot open.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"run_dir must have a path in UTF-8, got {str(path.absolute())!r}."
        ) from None
    if set("*?[") & set(str(path.absolute())):
        raise ValueError(
            f"run_dir must have none of *, ? and [ in its path, got {path}."
        )


def is_empty(path: pathlib.Path) -> bool:
    """Returns whether a folder is not there yet, or holds nothing."""
    # A run that was killed at its very beginning leaves these.
    return not path.exists() or (
        path.is_dir()
        and all(
            (file.name == LOCK or file.suffix == files.PARTIAL)
            and files.is_regular(file)
            for file in path.iterdir()
        )
    )


def lock(path: pathlib.Path) -> "filelock.BaseFileLock":
    """Takes the lock of a folder, which the system frees when the process ends.

    Files that a killed process was writing there are removed.

    Raises:
      ValueError: if another process holds it, or as in `check_links`.
      OSError: if the folder cannot be written.
    """
    import filelock  # not needed by who only reads a file of weights

    check_links(path)
    held = filelock.FileLock(path / LOCK, blocking=False, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        raise ValueError(f"{path} is in use by another process.") from None
    try:
        for folder in filter(files.is_folder, (path.resolve(), path / PLOTS)):
            files.remove_partials(folder, _OLD_PARTIALS)
    except OSError:
        held.release()
        raise
    return held


def check_links(
    path: pathlib.Path,
    names: Iterable[str] = (LOCK, CHECKPOINTS, PLOTS, TENSORBOARD),
) -> None:
    """Raises ValueError if what a run writes into is a symbolic link.

    Args:
      path: of the run folder.
      names: of what is written into, which need not be there.
    """
    _refuse_links(path / name for name in names)


def check_inner(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> None:
    """Raises ValueError if a run within a folder would be written through a link.

    Args:
      folder: of many runs.
      paths: of the runs.
    """
    for path in paths:
        _refuse_links(p for p in (*path.parents, path) if folder in p.parents)
        check_links(path)


def _refuse_links(paths: Iterable[pathlib.Path]) -> None:
    for path in paths:
        if path.is_symlink():
            raise ValueError(
                f"{path} must not be a symbolic link: nothing is written or removed "
                "through links."
            )


def lock_there(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns what tells the lock of a folder from any other; None without a lock."""
    try:
        found = (path / LOCK).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_there(path: pathlib.Path, held: tuple[int, int] | None = None) -> None:
    """Raises OSError if the folder of a run that trains is no longer its own.

    Args:
      path: of the folder.
      held: of the lock that the run holds, from `lock_there`; None: it may have any.
    """
    if not files.is_file(path / CONFIG):
        raise OSError(f"{path} has lost its {CONFIG}: was the folder removed?")
    found = lock_there(path)
    if held is not None and found not in (None, held):
        raise OSError(
            f"{path} has a lock of another process now: was the folder moved, and "
            "another run begun in its place?"
        )


def read_json(path: pathlib.Path, name: str) -> dict[str, Any]:
    """Reads a file of a run folder.

    Raises:
      ValueError: if it is not there or damaged.
    """
    file = path / name
    if not os.path.isfile(file):  # pathlib's raises for an over-long name
        kind = {RESULT: "finished run", DIVERGED: "run that diverged"}.get(name, "run")
        raise ValueError(f"{path} is not the folder of a {kind}: it has no {name}.")
    return files.read_json(file)
