"""A bar that shows how a run gets on."""

import math
import time

import jax
from rich import console, progress, text

from sgdat_jax.training import formats, loop, runs, steps

# Between two readings of the arrays, which wait for the step.
_SECONDS = 0.2


class _ImagesPerSecond(progress.ProgressColumn):
    """Shows the speed of the last half minute, evaluation included."""

    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: progress.Task) -> text.Text:
        """Returns what to show."""
        speed = task.speed  # steps per second
        return text.Text("" if speed is None else f"{speed * self._batch_size:,.0f}/s")


class ProgressBar(loop.Watcher):
    """Shows a run in a terminal, and a line per epoch where there is none.

    Use it as a context manager.

    Args:
      run: the run to show.
      terminal: where to.
      lines: whether to print the lines.
    """

    def __init__(self, run: runs.Run, terminal: console.Console, *, lines: bool = True):
        self._console = terminal
        self._lines = lines and not terminal.is_terminal
        self._epochs = run.config.epochs
        self._epoch = len(run.progress.lines) + 1
        self._read_at = -math.inf
        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[status]}"),
            _ImagesPerSecond(run.config.batch_size),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=terminal,
            disable=not terminal.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(
            "train",
            total=run.config.epochs * run.steps_per_epoch,
            completed=run.steps_done,
            epoch=f"{self._epoch}/{self._epochs}",
            status="compiling",
        )

    def __enter__(self) -> "ProgressBar":
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def stepped(self, metrics: steps.Metrics, flip_ratio: jax.Array | None) -> None:
        """Moves the bar on."""
        epoch = f"{self._epoch}/{self._epochs}"
        self._bar.update(self._task, advance=len(metrics.loss), epoch=epoch)
        now = time.monotonic()
        if self._console.is_terminal and now - self._read_at >= _SECONDS:
            self._read_at = now
            examples = float(metrics.examples[-1])
            status = (
                f"loss {float(metrics.loss[-1]) / examples:.3f}  "
                f"accuracy {float(metrics.correct[-1]) / examples:6.1%}"
            )
            if flip_ratio is not None:
                status += f"  flips {float(flip_ratio[-1]):.2e}"
            self._bar.update(self._task, status=status)

    def epoch_ended(self, line: formats.EpochLine) -> None:
        """Prints the epoch where there is no bar."""
        self._epoch = line["epoch"] + 1
        if self._lines:
            flips = f"flips {line['flip_ratio']:.2e}  " if "flip_ratio" in line else ""
            self._console.print(
                f"epoch {line['epoch']}/{self._epochs}  "
                f"loss {line['train_loss']:.3f}  "
                f"train {line['train_accuracy']:.2%}  "
                f"test {line['test_accuracy']:.2%}  "
                f"{flips}{line['images_per_second']:,.0f} images/s",
                soft_wrap=True,
            )
