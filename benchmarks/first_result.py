"""Where does the time of a first result go, from the command to its last line?

Runs ``sgdat-jax train`` in processes of their own, with a new and with a filled cache
of compiled programs, while a thread looks every few milliseconds what the main one
does.

    python -m benchmarks.first_result --rounds 5
"""

import argparse
import collections
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

_RESULTS = pathlib.Path(__file__).parent / "results" / "first_result"
_INTERVAL = 0.002  # seconds between two looks
# What is being done where one of these is among the frames, the first that is found: a
# part of a file's path, and a function's name or "" for all.
_KINDS = (
    ("imports", "importlib._bootstrap", ""),
    ("compiling", "jax/_src/compiler.py", "compile_or_get_cached"),
    ("tracing", "jax/_src/interpreters/mlir.py", ""),
    ("tracing", "jax/_src/interpreters/partial_eval.py", ""),
    ("tracing", "jax/_src/pjit.py", "_infer_params"),
    ("pictures and report", "sgdat_jax/report/", ""),
    ("saving", "sgdat_jax/training/checkpoint.py", ""),
    ("saving", "sgdat_jax/training/run_folder.py", ""),
    ("saving", "sgdat_jax/files.py", ""),
    ("data", "sgdat_jax/data/", ""),
    ("training steps", "sgdat_jax/training/loop.py", ""),
    ("setting up", "sgdat_jax/", ""),
)
KINDS = (*dict.fromkeys(kind for kind, _, _ in _KINDS), "interpreter")


def kind_of(frame: FrameType | None) -> str:
    """Returns what a thread does, by the frames of its stack."""
    places = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    for kind, part, function in _KINDS:
        if any(part in file and function in ("", name) for file, name in places):
            return kind
    return "interpreter"


class Sampler(threading.Thread):
    """Adds up the seconds of the thread that makes it, by what it does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self.seconds: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        """Looks until `end`."""
        before = time.perf_counter()
        while not self._ended.wait(_INTERVAL):
            try:
                kind = kind_of(sys._current_frames()[self._watched])
            except AttributeError:  # the stack changed meanwhile
                continue
            now = time.perf_counter()
            self.seconds[kind] += now - before
            before = now

    def end(self) -> None:
        """Ends it."""
        self._ended.set()
        self.join()


def run_sampled(words: Sequence[str], file: str) -> None:
    """Runs the command, and writes where its time went."""
    sampler = Sampler()
    sampler.start()
    try:
        from sgdat_jax import __main__ as program

        sys.argv = ["sgdat-jax", *words]
        program.main()
    finally:
        sampler.end()
        pathlib.Path(file).write_text(json.dumps(sampler.seconds))


def seconds_of(words: Sequence[str], cache: pathlib.Path) -> dict[str, float]:
    """Returns the seconds of a command in a new process by kind, and all together.

    Args:
      words: of the command.
      cache: folder of compiled programs.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/seconds.json"
        call = f"first_result.run_sampled({list(words)!r}, {file!r})"
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", f"from benchmarks import first_result; {call}"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ
            | {
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
        )
        took = time.perf_counter() - begun
        sampled = json.loads(pathlib.Path(file).read_text())
    sampled["interpreter"] = (
        sampled.get("interpreter", 0) + took - sum(sampled.values())
    )
    return {kind: sampled.get(kind, 0.0) for kind in KINDS} | {"all": took}


def measure(words: Sequence[str], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Returns `seconds_of` a command, with new and with filled caches in turn."""
    found: dict[str, list[dict[str, float]]] = {"new cache": [], "filled cache": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for place, taken in enumerate(found.values()):
                run = ["--run-dir", f"{folder}/run{place}"]
                taken.append(seconds_of([*words, *run], pathlib.Path(folder, "cache")))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table and writes what was found."""
    from benchmarks import timing

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=_RESULTS)
    parser.add_argument("words", nargs="*", default=["train"], help="of the command")
    options = parser.parse_args(arguments)
    found = measure(options.words, options.rounds)
    medians: dict[str, dict[str, Any]] = {
        case: {kind: statistics.median(row[kind] for row in rows) for kind in rows[0]}
        for case, rows in found.items()
    }
    rows = [
        {"seconds": kind, **{case: f"{medians[case][kind]:.2f}" for case in medians}}
        for kind in (*KINDS, "all")
    ]
    timing.show(rows, names=("seconds",))
    name = "-".join(options.words).replace("/", "_")
    timing.write(options.out / f"{name}.json", {"medians": medians, "rounds": found})


if __name__ == "__main__":
    main()
