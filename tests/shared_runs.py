"""One short run on the digits, shared by all tests that only look at a run."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np

import compiling
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import loop, runs, states

EPOCHS = 2
BATCH = 64


@functools.cache
def scratch() -> tempfile.TemporaryDirectory:
    """The folder of the shared runs, which lives as long as the process."""
    return tempfile.TemporaryDirectory(prefix="sgdat-jax-tests-")


@functools.cache
def finished() -> runs.Run:
    """A run of two epochs with seed 0 in this process."""
    folder = pathlib.Path(scratch().name, "finished")
    settings = configs.TrainConfig(epochs=EPOCHS, diagnostics=True, run_dir=str(folder))
    with compiling.quickly():  # in whichever file it is asked for first
        return loop.train(setup.set_up(settings), loop.Watcher())[0]


@functools.cache
def by_command() -> tuple[pathlib.Path, str]:
    """The same run by the command in a process of its own: its folder and output."""
    folder = pathlib.Path(scratch().name, "run of :smile: command")
    options = ("--epochs", str(EPOCHS), "--diagnostics", "--run-dir", str(folder))
    with compiling.quickly():
        done = command("train", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m sgdat_jax`` in a process of its own."""
    return python("-m", "sgdat_jax", *arguments)


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )


def fresh_state(run: runs.Run, **changes: object) -> states.TrainState:
    """The initial state of a run of the same kind; nothing shares its buffers."""
    settings = dataclasses.replace(run.config, **changes)  # type: ignore[arg-type]
    init = setup.create(settings, run.dataset, run.steps_per_epoch)[1]
    return init(settings.seed)


def copy(tree):
    """A copy of a tree, for a function that donates its argument."""
    return jax.tree.map(lambda leaf: leaf.copy(), tree)


def assert_bit_equal(left: object, right: object) -> None:
    """Asserts that two trees hold the same bits, dtypes and paths."""
    left_leaves = jax.tree.leaves_with_path(left)
    right_leaves = jax.tree.leaves_with_path(right)
    assert [path for path, _ in left_leaves] == [path for path, _ in right_leaves]
    for (path, a), (_, b) in zip(left_leaves, right_leaves, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
