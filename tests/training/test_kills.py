"""A run that is killed again and again, at any moment, ends in the same bits."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

import shared_runs
from sgdat_jax import run_folder
from sgdat_jax.experiments import setup
from sgdat_jax.training import checkpoint

_KILLS = 50
_OPTIONS = ("--epochs", "30", "--width", "0.25", "--save-every-steps", "3")


def _start(folder):
    words = [sys.executable, "-m", "sgdat_jax", "train", "--resume", str(folder)]
    return subprocess.Popen(
        [*words, *_OPTIONS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _is_killed(folder, chance):
    """Starts or resumes a run and kills it, unless it ends before."""
    process, saved = _start(folder), _steps(folder)
    seconds = chance.uniform(0, 10)  # any moment
    if chance.random() < 0.8:
        while _steps(folder) == saved and process.poll() is None:
            time.sleep(0.01)
        seconds = chance.uniform(0, 2)  # while it trains and saves
    time.sleep(seconds)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def _steps(folder):
    return checkpoint.steps(folder / run_folder.CHECKPOINTS)


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits(tmp_path):
    whole = tmp_path / "whole"
    process = _start(whole)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    chance = random.Random(0)
    kills = cut_short = finished = 0
    while kills < _KILLS:
        folder = pathlib.Path(tmp_path, f"killed{finished}")
        while kills < _KILLS and _is_killed(folder, chance):
            kills += 1
            saved = folder / run_folder.CHECKPOINTS
            cut_short += len(list(saved.glob("*"))) > len(_steps(folder))
        done = shared_runs.command("train", "--resume", str(folder), *_OPTIONS)
        assert (done.returncode, done.stderr) == (0, "")
        name = run_folder.METRICS
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
        shared_runs.assert_bit_equal(
            setup.restore(folder).state, setup.restore(whole).state
        )
        finished += 1
    print(f"{kills} kills, {cut_short} of them while saving; {finished} runs finished")
    assert cut_short > 0
