"""Bars that show how runs get on, and lines where there is no terminal."""

import datetime
import math
import time

import jax
import numpy as np
from rich import console, live, progress, table, text

from sgdat_jax.experiments import sweep
from sgdat_jax.run_folder import formats
from sgdat_jax.training import loop, runs, steps

# Between two readings of the arrays, which wait for the step.
_SECONDS = 0.2
# Columns from which the longer forms of what a bar says fit beside rate and time left.
_WIDE, _NARROW = 96, 76


class _Column(progress.ProgressColumn):
    """Stays whole where a terminal is narrow: the bar gives way."""

    def get_table_column(self) -> table.Column:
        """Returns the column."""
        return table.Column(no_wrap=True)


class _Words(progress.TextColumn, _Column):
    """Shows a text by its format."""


class _RunTimeLeft(progress.TimeRemainingColumn, _Column):
    """Shows the time left at the rate of the last half minute."""


class _Status(_Column):
    """Shows what was last measured, or for how long a program is being compiled."""

    def render(self, task: progress.Task) -> text.Text:
        """Returns what to show."""
        status = task.fields["status"]
        return text.Text(status or f"compiling {_clock(task.elapsed or 0.0)}")


class _ImagesPerSecond(_Column):
    """Shows the speed of the last half minute, evaluation included."""

    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: progress.Task) -> text.Text:
        """Returns what to show."""
        speed = task.speed  # steps per second
        return text.Text("" if speed is None else f"{speed * self._batch_size:,.0f}/s")


class _TimeLeft(_Column):
    """Shows the time left at the rate so far, with all that was compiled meanwhile."""

    def render(self, task: progress.Task) -> text.Text:
        """Returns what to show."""
        done = task.completed - task.fields["before"]
        elapsed = task.elapsed or 0.0
        if not done or task.total is None:  # while the first program is compiled
            return text.Text(f"{_clock(elapsed)} so far")
        left = elapsed / done * (task.total - task.completed)
        return text.Text(f"{_clock(left)} left in all")


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


class Total:
    """Shows which of many runs is under way, and the time left for all.

    Use it as a context manager.

    Args:
      terminal: where to.
      count: of all runs, those included that had finished before.
      done: how many had.
    """

    def __init__(self, terminal: console.Console, count: int, done: int):
        self.name = ""  # of the run under way
        self._terminal = terminal
        self._count, self._number = count, done
        self._bar = progress.Progress(
            _Words("{task.description}", markup=False),
            progress.BarColumn(None, table_column=table.Column(ratio=1)),
            _TimeLeft(),
            console=terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=count, completed=done, before=done)
        self._live = live.Live(self._bar, console=terminal, transient=True)

    def __enter__(self) -> "Total":
        """Shows the bar."""
        if self._terminal.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Takes the bar away."""
        self._live.stop()

    def begin(self, name: str, count: int = 1) -> None:
        """Tells that the next runs begin.

        Args:
          name: of what they are.
          count: how many train at once.
        """
        first, self._number = self._number + 1, self._number + count
        numbers = f"{first}" if count == 1 else f"{first}-{self._number}"
        self.name = f"run {numbers}/{self._count}, {name}"
        self._bar.update(self._task, description=self.name)

    def show(self, bar: progress.Progress) -> None:
        """Shows the bar of the run under way below."""
        self._live.update(console.Group(self._bar, bar))

    def advance(self, runs: float) -> None:
        """Tells how much of a run, or of several, has been done."""
        self._bar.update(self._task, advance=runs)


class ProgressBar(loop.Watcher):
    """Shows a run in a terminal, and a line per epoch where there is none.

    Use it as a context manager.

    Args:
      run: the run to show.
      terminal: where to.
      total: of the runs that it is one of.
    """

    def __init__(
        self, run: runs.Run, terminal: console.Console, total: Total | None = None
    ):
        self._console = terminal
        self._total = total
        self._epochs = run.config.epochs
        self._epoch = len(run.progress.lines) + 1
        self._read_at = -math.inf
        self._steps = run.config.epochs * run.steps_per_epoch
        self._bar = progress.Progress(
            _Words("epoch {task.fields[epoch]}"),
            progress.BarColumn(None, table_column=table.Column(ratio=1)),
            _Status(),
            _ImagesPerSecond(run.config.batch_size),
            _RunTimeLeft(),
            _Words("left"),
            console=terminal,
            disable=not terminal.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task(
            "train",
            total=self._steps,
            completed=run.steps_done,
            epoch=f"{self._epoch}/{self._epochs}",
            status="",
        )
        if total is not None:
            total.advance(run.steps_done / self._steps)

    def __enter__(self) -> "ProgressBar":
        """Shows the bar."""
        if self._total is None:
            self._bar.start()
        else:
            self._total.show(self._bar)
        return self

    def __exit__(self, *exception: object) -> None:
        """Takes the bar away, and what was not done of the run out of the time left."""
        self._bar.stop()
        (task,) = self._bar.tasks
        if self._total is not None:
            self._total.advance(1 - task.completed / self._steps)

    def stepped(self, metrics: steps.Metrics, flip_ratio: jax.Array | None) -> None:
        """Moves the bar on."""
        count = len(metrics.loss)
        epoch = f"{self._epoch}/{self._epochs}"
        self._bar.update(self._task, advance=count, epoch=epoch)
        if self._total is not None:
            self._total.advance(count / self._steps)
        now = time.monotonic()
        if self._console.is_terminal and now - self._read_at >= _SECONDS:
            self._read_at = now
            status = _measured(metrics, flip_ratio, self._console.width)
            self._bar.update(self._task, status=status)

    def epoch_ended(self, line: formats.EpochLine) -> None:
        """Prints the epoch where there is no bar."""
        self._epoch = line["epoch"] + 1
        if self._console.is_terminal:
            return
        flips = f"flips {line['flip_ratio']:.2e}  " if "flip_ratio" in line else ""
        valid = ""
        if "valid_accuracy" in line:
            valid = f"validation {line['valid_accuracy']:.2%}  "
        name = f"{self._total.name}: " if self._total is not None else ""
        self._console.print(
            f"{name}epoch {line['epoch']}/{self._epochs}  "
            f"loss {line['train_loss']:.3f}  "
            f"train {line['train_accuracy']:.2%}  "
            f"{valid}test {line['test_accuracy']:.2%}  "
            f"{flips}{line['images_per_second']:,.0f} images/s",
            markup=False,
            emoji=False,
            soft_wrap=True,
        )


def _measured(metrics: steps.Metrics, flip_ratio: jax.Array | None, width: int) -> str:
    """Returns what the last step measured, as long as the terminal is wide."""
    examples = float(metrics.examples[-1])
    loss = f"loss {float(metrics.loss[-1]) / examples:.3f}"
    accuracy = f"{float(metrics.correct[-1]) / examples:6.1%}"
    flips = "" if flip_ratio is None else f"  flips {float(flip_ratio[-1]):.1e}"
    if width >= _WIDE:
        return f"{loss}  accuracy {accuracy}{flips}"
    return f"{loss} {accuracy}{flips if width >= _NARROW else ''}"


class SweepBar(sweep.Watcher):
    """Shows a sweep in a terminal, and a line per epoch where there is none.

    Args:
      total: of all models.
      terminal: where to.
      epochs: of each model.
      steps_per_epoch: of each model.
    """

    def __init__(
        self,
        total: Total,
        terminal: console.Console,
        epochs: int,
        steps_per_epoch: int,
    ):
        self._total = total
        self._console = terminal
        self._epochs = epochs
        self._share = 1 / (epochs * steps_per_epoch)
        self._models = 1

    def began(self, trials: list[sweep.Trial]) -> None:
        """Names the models that are trained next."""
        self._models = len(trials)
        first = trials[0]
        values = " ".join(f"{k} {v:g}" for k, v in first.hyperparameters.items())
        self._total.begin(f"{values}, seed {first.seed}", self._models)

    def stepped(self, steps: int) -> None:
        """Moves the bar on."""
        self._total.advance(steps * self._models * self._share)

    def epoch_ended(self, epoch: int, accuracies: np.ndarray) -> None:
        """Prints the epoch where there is no bar."""
        if not self._console.is_terminal:
            mean = float(np.mean(accuracies[: self._models]))
            self._console.print(
                f"{self._total.name}: epoch {epoch}/{self._epochs}  test {mean:.2%}",
                markup=False,
                soft_wrap=True,
            )
