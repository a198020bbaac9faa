"""Commands that are killed again and again, at any moment, and must end alike.

Each job is a command that can be started again. It is run once without a pause; then,
in other folders, it is killed and started until it has ended, and what it leaves must
be the same to the bit, times aside.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sgdat_jax import cli, run_folder
from sgdat_jax.data import dataset, sources
from sgdat_jax.experiments import sweep

_SMALL = ("--width", "0.1", "--batch-size", "256", "--plugin", "benchmarks.small_net")
_RUN = ("--model", "TinyNet", "--epochs", "12", "--save-every-steps", "4")
_MANY = ("--model", "TinyNet", "--epochs", "4")
_UNSAVED = "checkpoints/*/*orbax-checkpoint-tmp*"
_MOST = 12  # kills of one folder, after which it may end
_HEARS = 20  # seconds for the other processes of a job to hear of a kill
_PATIENCE = 300  # seconds for a command that is not killed


class Job(NamedTuple):
    """A command, by the folder in which it leaves what it makes."""

    words: Callable[[pathlib.Path], list[str]]
    result: Callable[[pathlib.Path], Any]  # equal for equal results
    is_saving: Callable[[pathlib.Path], bool]  # whether it is writing right now
    processes: int = 1


class Count(NamedTuple):
    """What came of one folder."""

    kills: int
    saving: int  # kills while something was being written
    faults: tuple[str, ...]


def jobs(published: pathlib.Path) -> dict[str, Job]:
    """Returns the jobs by name.

    Args:
      published: a small set laid out as TinyImageNet, from `write_published`.
    """
    return {
        "train": Job(
            lambda folder: ["train", "--resume", str(folder / "run"), *_SMALL, *_RUN],
            lambda folder: _of_run(folder / "run"),
            lambda folder: _holds(folder / "run", _UNSAVED),
        ),
        "compare": Job(
            lambda folder: [
                *("compare", "--run-dir", str(folder / "all"), "--seeds", "2"),
                *("--optimizers", "sgdat", "bop", "--save-every-steps", "5"),
                *_SMALL,
                *_MANY,
            ],
            lambda folder: [_of_run(run) for run in sorted(folder.glob("all/*/seed*"))],
            lambda folder: _holds(folder, f"all/*/*/{_UNSAVED}"),
        ),
        "sweep": Job(
            lambda folder: [
                *("sweep", "--run-dir", str(folder / "all"), "--seeds", "3"),
                *("--learning-rate", "1e-4", "1e-3", "1e-2", *_SMALL, *_MANY),
            ],
            lambda folder: _of_sweep(folder / "all"),
            lambda folder: _holds(folder, "all/*.partial"),
        ),
        "data prepare": Job(
            lambda folder: [
                *("data", "prepare", "tiny_imagenet", "--data-dir", str(folder)),
                *("--from", str(published)),
            ],
            _of_set,
            lambda folder: _holds(folder, "tiny_imagenet/incomplete.*/*"),
        ),
        "train on two hosts": Job(
            lambda folder: ["train", "--resume", str(folder / "run"), *_SMALL, *_RUN],
            lambda folder: _of_run(folder / "run"),
            lambda folder: _holds(folder / "run", _UNSAVED),
            processes=2,
        ),
    }


def write_published(root: pathlib.Path) -> pathlib.Path:
    """Writes a small set laid out as TinyImageNet; returns its folder."""
    chance = np.random.default_rng(0)
    classes, per_class = ("n01", "n02", "n03"), 600
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(classes))
    (root / "words.txt").write_text("".join(f"{name}\tword\n" for name in classes))
    lines = []
    for name in classes:
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for number in range(per_class):
            pixels = chance.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG")
        Image.fromarray(pixels).save(root / "val" / "images" / f"{name}.JPEG")
        lines.append(f"{name}.JPEG\t{name}\t0\t0\t9\t9\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def run_whole(job: Job, folder: pathlib.Path) -> tuple[Any, float]:
    """Runs a job without a pause; returns its result and its seconds."""
    folder.mkdir()
    start = time.monotonic()
    codes, output = _finish(_start(job, folder), folder)
    if any(codes):
        raise RuntimeError(f"a job that is not killed must end well, got:\n{output}")
    return job.result(folder), time.monotonic() - start


def kill_until_done(
    job: Job, folder: pathlib.Path, expected: Any, seconds: float, chance: random.Random
) -> Count:
    """Kills a job at moments by chance until it has ended, then compares its result."""
    folder.mkdir()
    kills = saving = 0
    faults = []
    while True:
        # What is left to do takes less and less.
        patience = chance.uniform(0.1, 0.7) * seconds if kills < _MOST else _PATIENCE
        codes, output, was_saving = _killed(job, folder, patience, chance)
        if -signal.SIGKILL not in codes:
            break
        kills += 1
        saving += was_saving
        if "Traceback" in output and job.processes == 1:
            faults.append(f"a traceback after {kills} kills: {output[-300:]}")
    if any(codes):
        faults.append(f"it ended with {codes}: {output[-300:]}")
    elif job.result(folder) != expected:
        faults.append(f"another result after {kills} kills")
    shutil.rmtree(folder)
    return Count(kills, saving, tuple(faults))


def _killed(
    job: Job, folder: pathlib.Path, patience: float, chance: random.Random
) -> tuple[list[int], str, bool]:
    """Starts a job and kills a process of it; returns what its processes ended with."""
    processes = _start(job, folder)
    wants_saving = chance.random() < 0.5
    end = time.monotonic() + (_PATIENCE if wants_saving else patience)
    was_saving = False
    while time.monotonic() < end and all(p.is_alive() for p in processes):
        if wants_saving and job.is_saving(folder) and chance.random() < 0.05:
            was_saving = True
            break
        time.sleep(0.002)
    if all(process.is_alive() for process in processes):
        was_saving = was_saving or job.is_saving(folder)
        victim = chance.choice(processes)
        os.kill(victim.pid, signal.SIGKILL)
        for process in processes:
            # One that waits for a process which never came would do so for minutes.
            process.join(_HEARS if process is not victim else None)
            process.kill()
    codes, output = _finish(processes, folder)
    return codes, output, was_saving


def _start(job: Job, folder: pathlib.Path) -> Sequence[Any]:
    """Starts the processes of a job, each from one that has imported all libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sgdat_jax.cli.work", "tensorflow_datasets"])
    words, started = job.words(folder), []
    port = _free_port()
    for number in range(job.processes):
        more = []
        if job.processes > 1:
            more = ["--distributed", "--coordinator", f"127.0.0.1:{port}"]
            more += ["--num-processes", str(job.processes), "--process-id", str(number)]
        output = folder.with_name(f"{folder.name}.output{number}")
        process = context.Process(target=_command, args=([*words, *more], output))
        process.start()
        started.append(process)
    return started


def _command(words: list[str], output: pathlib.Path) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    cli.main(words)


def _finish(processes: Sequence[Any], folder: pathlib.Path) -> tuple[list[int], str]:
    """Waits for the processes of a job; returns how they ended, and their output."""
    end = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
            process.join()
            raise RuntimeError(f"{folder}: a command has not ended in {_PATIENCE} s")
    output = ""
    for number in range(len(processes)):
        file = folder.with_name(f"{folder.name}.output{number}")
        output += file.read_text(errors="replace")
    return [process.exitcode for process in processes], output


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _holds(folder: pathlib.Path, pattern: str) -> bool:
    with contextlib.suppress(OSError):  # it vanishes as it is looked at
        return next(folder.glob(pattern), None) is not None
    return False


def _of_run(run: pathlib.Path) -> dict[str, Any]:
    result = run_folder.read_result(run)
    return {
        "metrics": (run / run_folder.METRICS).read_text(),
        **{name: _digest_of(run / name) for name in (run_folder.BEST, run_folder.LAST)},
        **{k: v for k, v in result.items() if "second" not in k},
    }


def _digest_of(weights: pathlib.Path) -> str:
    """Returns a digest of the arrays of a file of weights, the run's folder aside."""
    digest = hashlib.sha256()
    with np.load(weights) as archive:
        for name in sorted(set(archive.files) - {"about"}):
            digest.update(name.encode() + archive[name].tobytes())
    return digest.hexdigest()


def _of_sweep(folder: pathlib.Path) -> list[str]:
    lines = sweep.read(folder)
    return sorted(
        json.dumps({k: v for k, v in line.items() if k != "seconds"}) for line in lines
    )


def _of_set(folder: pathlib.Path) -> Any:
    left = sorted(path.name for path in (folder / "tiny_imagenet").iterdir())
    return left, dataset.fingerprint(sources.load("tiny_imagenet", folder))
