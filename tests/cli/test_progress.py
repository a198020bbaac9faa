import io
import re

import jax.numpy as jnp
from rich import console

import shared_runs
from sgdat_jax.cli import progress
from sgdat_jax.training import runs, steps


def _bar():
    terminal = console.Console(file=io.StringIO(), force_terminal=True, width=120)
    run = shared_runs.finished()._replace(progress=runs.Progress())
    return progress.ProgressBar(run, terminal), terminal


def _metrics():
    ones = jnp.ones(1)
    return steps.Metrics(64 * ones, 32 * ones, 48 * ones, 60 * ones)


def test_bar_shows_accuracy_speed_and_time_left(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    shown, terminal = _bar()
    with shown as bar:
        for flips in (jnp.full(1, 0.25), jnp.full(1, 0.25), None):
            bar.stepped(_metrics(), flips)
            bar._bar.refresh()
    text = terminal.file.getvalue()
    assert "epoch 1/2" in text
    assert "loss 0.500  accuracy  75.0%  flips 2.50e-01" in text
    assert re.search(r"accuracy  75\.0%\S* *\S*[\d,]+/s", text)  # without flips
    assert re.search(r"\d:\d\d:\d\d.* left", text)


def test_arrays_are_read_five_times_a_second(monkeypatch):
    seen = []
    with _bar()[0] as bar:
        for number in range(10):
            now = 100 + 0.05 * number
            monkeypatch.setattr(progress.time, "monotonic", lambda now=now: now)
            bar.stepped(_metrics(), jnp.full(1, 0.01 * number))
            (task,) = bar._bar.tasks
            assert task.completed == number + 1
            seen.append(task.fields["status"].rpartition(" ")[2])
    assert seen == [*4 * ["0.00e+00"], *4 * ["4.00e-02"], *2 * ["8.00e-02"]]
