import io
import re

import jax.numpy as jnp
import pytest
from rich import console

import shared_runs
from sgdat_jax.cli import progress
from sgdat_jax.training import runs, steps

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def _terminal(width=120, **options):
    return console.Console(file=io.StringIO(), width=width, **options)


def _run():
    return shared_runs.finished()._replace(progress=runs.Progress())


def _bar(width=120):
    terminal = _terminal(width, force_terminal=True)
    return progress.ProgressBar(_run(), terminal), terminal


def _metrics():
    ones = jnp.ones(1)
    return steps.Metrics(64 * ones, 32 * ones, 48 * ones, 60 * ones)


def _shown(terminal):
    """The last line of a bar as a terminal would show it."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.file.getvalue())
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()][-1]


def test_bar_shows_accuracy_speed_and_time_left(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    shown, terminal = _bar()
    with shown as bar:
        for flips in (jnp.full(1, 0.25), jnp.full(1, 0.25), None):
            bar.stepped(_metrics(), flips)
            bar._bar.refresh()
    text = terminal.file.getvalue()
    assert "epoch 1/2" in text
    assert "loss 0.500  accuracy  75.0%  flips 2.5e-01" in text
    assert re.search(r"accuracy  75\.0%\S* *\S*[\d,]+/s", text)  # without flips
    assert re.search(r"\d:\d\d:\d\d.* left", text)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_rate_and_time_left_are_whole_at_any_width(width, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    clock = iter(range(1000))
    shown, terminal = _bar(width)
    with shown as bar:
        for task in bar._bar._tasks.values():
            task._get_time = lambda: float(next(clock))
        for _ in range(5):
            bar.stepped(_metrics(), jnp.full(1, 0.25))
        bar._bar.refresh()
        line = _shown(terminal)
    assert len(line) <= width
    for part in ("epoch 1/2", "loss 0.500", "75.0%", "/s", " left"):
        assert part in line, line
    assert re.search(r"\d:\d\d:\d\d left", line)
    assert "…" not in line
    assert len(re.findall("[━╸╺]", line)) >= 8  # cells of the bar


def test_compiling_shows_the_time_it_has_taken(monkeypatch):
    shown, terminal = _bar(80)
    with shown as bar:
        (task,) = bar._bar.tasks
        monkeypatch.setattr(task, "_get_time", lambda: task.start_time + 83)
        bar._bar.refresh()
        assert "compiling 0:01:23" in _shown(terminal)


def test_a_comparison_shows_the_run_and_the_time_left_for_all():
    terminal = _terminal(80, force_terminal=True)
    with progress.Total(terminal, 6, 2) as total:
        (task,) = total._bar.tasks
        start = task.start_time
        total.begin("bop, seed 0")
        with progress.ProgressBar(_run(), terminal, total) as bar:
            # A half of the first of four runs has taken ten seconds.
            for _ in range(bar._steps // 2):
                bar.stepped(_metrics(), None)
            task._get_time = lambda: start + 10
            total._live.refresh()
            text = terminal.file.getvalue()
            assert "run 3/6, bop, seed 0" in text
            assert "0:01:10 left in all" in text
            assert "epoch 1/2" in text
        assert task.completed == pytest.approx(3)
        total.begin("bop, seed 1")
        assert total.name == "run 4/6, bop, seed 1"


def test_without_a_terminal_there_is_a_line_per_epoch():
    terminal = _terminal(80, force_terminal=False)
    line = {
        **{"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.75},
        **{"test_loss": 0.4, "test_accuracy": 0.8, "images_per_second": 1234.0},
    }
    with progress.Total(terminal, 6, 2) as total:
        total.begin("bop, seed 0")
        with progress.ProgressBar(_run(), terminal, total) as bar:
            bar.stepped(_metrics(), None)
            bar.epoch_ended(line)
    assert terminal.file.getvalue() == (
        "run 3/6, bop, seed 0: epoch 1/2  loss 0.500  train 75.00%  test 80.00%  "
        "1,234 images/s\n"
    )


def test_no_color_is_kept_to(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    shown, terminal = _bar(80)
    with shown as bar:
        bar.stepped(_metrics(), None)
        bar._bar.refresh()
    codes = re.findall(r"\x1b\[([0-9;]*)m", terminal.file.getvalue())
    colors = {c for code in codes for c in code.split(";") if c[:1] in "349" and c[1:]}
    assert colors == set()


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
    assert seen == [*4 * ["0.0e+00"], *4 * ["4.0e-02"], *2 * ["8.0e-02"]]
