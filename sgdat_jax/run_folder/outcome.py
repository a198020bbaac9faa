"""Metrics, times and result of a run, in its folder.

The times of the epochs are in a file of their own, so that the metrics of two runs with
the same bits are equal files.
"""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sgdat_jax import files
from sgdat_jax.run_folder import formats, places


def append_epoch(
    path: pathlib.Path, metrics: Mapping[str, Any], times: Mapping[str, Any]
) -> None:
    """Adds the lines of one epoch."""
    files.append_line(path / places.TIMES, times)
    files.append_line(path / places.METRICS, metrics)


def write_epochs(
    path: pathlib.Path,
    metrics: Sequence[Mapping[str, Any]],
    times: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the lines of all epochs anew."""
    files.write_lines(path / places.TIMES, times)
    files.write_lines(path / places.METRICS, metrics)


def write_result(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes the result of a finished run."""
    files.write_json(path / places.RESULT, result)


def write_diverged(path: pathlib.Path, epoch: int, step: int) -> None:
    """Writes in which epoch, from 1, and after which step a run ended as diverged."""
    files.write_json(path / places.DIVERGED, {"epoch": epoch, "step": step})


def read_metrics(path: pathlib.Path) -> list[formats.EpochLine]:
    """Reads the metrics of all epochs, with their times.

    Raises:
      ValueError: if there are none, a line is damaged, or an epoch is missing or there
        twice.
    """
    file = path / places.METRICS
    lines = formats.check_all(file, files.read_lines(file), formats.EpochLine)
    if not lines:
        raise ValueError(f"{file} has no epoch.")
    for number, line in enumerate(lines, start=1):
        if line["epoch"] != number:
            raise ValueError(
                f"{file} is damaged: line {number} must be of epoch {number}, got "
                f"{line['epoch']}."
            )
    if not (path / places.TIMES).exists():
        return lines  # of format 0
    found = files.read_lines(path / places.TIMES)
    formats.check_all(path / places.TIMES, found, formats.Times)
    times: dict[int, Any] = {line["epoch"]: line for line in found}
    for line in lines:
        line.update(times.get(line["epoch"], {}))
    return lines


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Raises:
      ValueError: if the run has not finished or its result is damaged.
    """
    return formats.check(
        path / places.RESULT, places.read_json(path, places.RESULT), formats.Result
    )


def has_diverged(path: pathlib.Path) -> bool:
    """Returns whether a run ended as its loss was not finite."""
    return files.is_file(path / places.DIVERGED)


def is_finished(path: pathlib.Path) -> bool:
    """Returns whether a run has come to its end, and has a result.

    Raises:
      OSError: if that cannot be found out.
    """
    return files.is_file(path / places.RESULT)


def read_diverged(path: pathlib.Path) -> dict[str, Any]:
    """Reads where a run diverged.

    Raises:
      ValueError: if it has not, or what it left is damaged.
    """
    return formats.check(
        path / places.DIVERGED,
        places.read_json(path, places.DIVERGED),
        formats.Diverged,
    )


def seconds_per_epoch(lines: Sequence[formats.EpochLine]) -> float | None:
    """Returns the seconds of training in the median epoch after the first.

    The first epoch includes compiling. None if there is no other, or if a former
    version left no times.

    Args:
      lines: of the metrics of all epochs.
    """
    seconds = [line["seconds"] for line in lines[1:] if "seconds" in line]
    return statistics.median(seconds) if seconds else None


def _read(path: pathlib.Path, name: str, kind: type[Any]) -> dict[str, Any]:
    found: dict[str, Any] = formats.check(
        path / name, places.read_json(path, name), kind
    )
    return found
