"""Is anything lost, whatever happens to commands and files?

Kills commands at moments by chance, fills disks, damages files, puts strange files in
all places and reads files that are changed by chance; counts what happened:

    python -m benchmarks.reliability --parts kills --minutes 30

Each part goes on from what its file of results has counted, until it has as many as are
wanted; ``--anew`` begins again. Faults are named, and make the command fail.
"""

import argparse
import functools
import pathlib
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import file_faults, fuzzing, kills, timing
from sgdat_jax import cli, files

RESULTS = pathlib.Path(__file__).parent / "results" / "reliability"
_KILLS = {
    "train": 50,
    "compare": 30,
    "sweep": 25,
    "data prepare": 80,
    "train on two hosts": 20,
}
_FULL_DISKS, _DAMAGES, _STRANGE = 60, 150, 3
_JSON, _BYTES = 2_000, 10_000
_AT_ONCE = 200  # mutations between two looks at the clock

Part = dict[str, dict[str, Any]]


class Clock:
    """Says when the time of a command is over.

    Args:
      minutes: that it has.
    """

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    def is_over(self) -> bool:
        """Returns whether it is."""
        return time.monotonic() > self._end


def main(arguments: Sequence[str] | None = None) -> None:
    """Goes on with parts, and writes what they have counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--minutes", type=float, default=60.0, help="for all parts")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual counts")
    parser.add_argument("--only", nargs="+", help="rows of the parts")
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    clock, faults = Clock(options.minutes), 0
    for name in options.parts:
        file = options.out / f"{name}.json"
        counted: Part = {}
        if file.exists() and not options.anew:
            counted = files.read_json(file)["counted"]

        def save(file: pathlib.Path = file, counted: Part = counted) -> None:
            timing.write(file, {"counted": counted})

        with tempfile.TemporaryDirectory() as folder:
            wanted = _Wanted(options.share, options.only)
            PARTS[name](pathlib.Path(folder), counted, wanted, clock, save)
        save()
        rows = {row: {k: _short(v) for k, v in c.items()} for row, c in counted.items()}
        for row, cells in rows.items():
            print(f"{row}: {', '.join(f'{k} {v}' for k, v in cells.items())}")
        faults += sum(len(row["faults"]) for row in counted.values())
    if faults:
        raise SystemExit(f"{faults} faults")


def _short(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else str(value)


class _Wanted:
    """How much is wanted of each row."""

    def __init__(self, share: float, only: Sequence[str] | None):
        self._share, self._only = share, only

    def __call__(self, row: str, usual: int) -> int:
        if self._only and row not in self._only:
            return 0
        return max(1, round(self._share * usual))


def _kill(
    folder: pathlib.Path,
    counted: Part,
    wanted: _Wanted,
    clock: Clock,
    save: Callable[[], None],
) -> None:
    jobs = kills.jobs(kills.write_published(folder / "tiny-imagenet-200"))
    for name, job in jobs.items():
        empty = {"kills": 0, "while saving": 0, "ended alike": 0, "faults": []}
        row = counted.setdefault(name, empty)
        if row["kills"] >= wanted(name, _KILLS[name]) or clock.is_over():
            continue
        kills.run_whole(job, folder / f"{name}, compiling")
        expected, seconds = kills.run_whole(job, folder / f"{name}, whole")
        while row["kills"] < wanted(name, _KILLS[name]) and not clock.is_over():
            chance = random.Random(f"{name} {row['kills']} {row['ended alike']}")
            found = kills.kill_until_done(
                job, folder / "killed", expected, seconds, chance
            )
            row["kills"] += found.kills
            row["while saving"] += found.saving
            row["ended alike"] += not found.faults
            row["faults"] += found.faults
            save()


def _spoil(
    folder: pathlib.Path,
    counted: Part,
    wanted: _Wanted,
    clock: Clock,
    save: Callable[[], None],
) -> None:
    @functools.cache
    def whole() -> pathlib.Path:
        return file_faults.whole_run(folder / "whole")

    @functools.cache
    def stopped() -> pathlib.Path:
        return file_faults.interrupted_run(folder / "stopped")

    kinds: dict[str, tuple[int, Callable[[pathlib.Path, random.Random], list[str]]]] = {
        "full disks": (
            _FULL_DISKS,
            lambda place, chance: file_faults.full_disk(whole(), place, chance),
        ),
        "damaged files": (
            _DAMAGES,
            lambda place, chance: file_faults.damage(whole(), stopped(), place, chance),
        ),
    }
    for name, (usual, spoil) in kinds.items():
        row = counted.setdefault(name, {"tried": 0, "faults": []})
        while row["tried"] < wanted(name, usual) and not clock.is_over():
            place = folder / f"{name} {row['tried']}"
            row["faults"] += spoil(place, random.Random(row["tried"]))
            row["tried"] += 1
            save()
    empty = {"tried": 0, "found again": 0, "faults": []}
    row = counted.setdefault("strange files", empty)
    while row["tried"] < wanted("strange files", _STRANGE) and not clock.is_over():
        place = folder / f"strange {row['tried']}"
        place.mkdir()
        strange, faults = file_faults.strange_files(stopped(), place)
        row["found again"] += strange
        row["faults"] += faults
        row["tried"] += 1
        save()


def _fuzz(
    folder: pathlib.Path,
    counted: Part,
    wanted: _Wanted,
    clock: Clock,
    save: Callable[[], None],
) -> None:
    words = ["--plugin", "benchmarks.small_net", "--model", "TinyNet", "--epochs", "1"]
    run, swept = folder / "whole run", folder / "whole sweep"
    cli.main(["train", "--run-dir", str(run), *words])
    rates = ["--learning-rate", "1e-4", "1e-3", "--seeds", "1"]
    cli.main(["sweep", "--run-dir", str(swept), *rates, *words])
    for name, case in fuzzing.cases(folder, run, swept).items():
        row = counted.setdefault(name, {"read": 0, "refused": 0, "faults": []})
        total = wanted(name, _JSON if "json" in name or "about" in name else _BYTES)
        whole = case.file.read_bytes()
        while (done := row["read"] + row["refused"]) < total and not clock.is_over():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = fuzzing.fuzz(case, done, min(_AT_ONCE, total - done))
            row["read"] += found.read
            row["refused"] += found.refused
            row["faults"] += found.faults
            save()
        case.file.write_bytes(whole)


PARTS = {"kills": _kill, "files": _spoil, "fuzzed": _fuzz}


if __name__ == "__main__":
    main()
