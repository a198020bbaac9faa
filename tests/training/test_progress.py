import io
import re

import jax.numpy as jnp
from rich import console

import shared_runs
from sgdat_jax.training import loop, progress, step


def test_bar_shows_accuracy_speed_and_time_left():
    terminal = console.Console(file=io.StringIO(), force_terminal=True, width=120)
    run = shared_runs.finished()._replace(progress=loop.Progress())
    ones = jnp.ones(1)
    metrics = step.Metrics(64 * ones, 32 * ones, 48 * ones, 60 * ones)
    with progress.ProgressBar(run, terminal) as bar:
        for flips in (0.25 * ones, 0.25 * ones, None):
            bar.stepped(metrics, flips)
            bar._bar.refresh()
    shown = terminal.file.getvalue()
    assert "epoch 1/2" in shown
    assert "loss 0.500  accuracy  75.0%  flips 2.50e-01" in shown
    assert re.search(r"accuracy  75\.0%\S* *\S*[\d,]+/s", shown)  # without flips
    assert re.search(r"\d:\d\d:\d\d.* left", shown)
