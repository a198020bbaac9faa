"""Does a long run stay as it is, in memory, file handles and threads?

Trains on scikit-learn's digits in a process of its own, saving all the time, measures
that process from outside, and ends it by a signal:

    python -m benchmarks.soak --minutes 30

The first tenth, with compiling in it, is left out of the comparison. Of the growth that
is left, a run keeps its lines of metrics, some kilobytes per epoch, until it ends.
"""

import argparse
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from benchmarks import timing
from sgdat_jax import files, run_folder
from sgdat_jax.training import checkpoint

RESULT = pathlib.Path(__file__).parent / "results" / "soak.json"
_OPTIONS = ("--epochs", "1000000", "--save-every-minutes", "0.1", "--diagnostics")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, measures and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder, "run")
        samples, code = _samples(run, 60 * options.minutes)
        epochs = len(run_folder.read_metrics(run))
        steps = checkpoint.steps(run / run_folder.CHECKPOINTS)[-1]
    tenths = np.array([part.mean(0) for part in np.array_split(samples, 10)])
    result = timing.circumstances() | {
        "minutes": options.minutes,
        "epochs": epochs,
        "steps": steps,
        "samples": len(samples),
        "exit_code": code,
        "mebibytes_by_tenth": (tenths[:, 0] / 2**20).round(1).tolist(),
        "file_handles_by_tenth": tenths[:, 1].round(1).tolist(),
        "most_file_handles": int(samples[:, 1].max()),
        "most_threads": int(samples[:, 2].max()),
    }
    files.write_json(options.out, result)
    print(_text(result))


def _samples(run: pathlib.Path, seconds: float) -> tuple[np.ndarray, int]:
    """Returns memory, file handles and threads over time, and the exit code."""
    words = [sys.executable, "-m", "sgdat_jax", "train", "--resume", str(run)]
    child = subprocess.Popen(
        [*words, *_OPTIONS], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    process, samples = psutil.Process(child.pid), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if child.poll() is not None:
            raise SystemExit(f"the run has ended by itself, with {child.returncode}")
        memory = process.memory_info().rss
        samples.append((memory, process.num_fds(), process.num_threads()))
        time.sleep(min(2.0, seconds / 100))
    child.send_signal(signal.SIGTERM)
    return np.array(samples), child.wait()


def _text(result: dict[str, Any]) -> str:
    memory, files = result["mebibytes_by_tenth"], result["file_handles_by_tenth"]
    return (
        f"{result['epochs']:,} epochs, {result['steps']:,} steps in "
        f"{result['minutes']:g} minutes; by tenths, MiB of memory: "
        f"{' '.join(map(str, memory))}; file handles: {' '.join(map(str, files))}, at "
        f"most {result['most_file_handles']}; threads at most "
        f"{result['most_threads']}; exit code {result['exit_code']}"
    )


if __name__ == "__main__":
    main()
