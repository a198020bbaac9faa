"""The command ``sgdat-jax``."""

import contextlib
import dataclasses
import io
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tyro
from rich import console as rich_console

from sgdat_jax import report
from sgdat_jax.data import commands as data_commands
from sgdat_jax.training import config as config_lib
from sgdat_jax.training import loop, progress, run_folder
from sgdat_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluates a finished run on the whole test set, and prints what it reached."""

    run_dir: tyro.conf.Positional[str]
    """Folder of the run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
      arguments: words of the command line; None takes those of the process.

    Raises:
      SystemExit: with 2 after one line on stderr if an argument or a file is wrong,
        with 1 if training diverges, with 130 if it is interrupted from the keyboard.
    """
    terminal = rich_console.Console(highlight=False)
    run: Any
    command: Callable[..., None]
    try:
        # Errors of the user are found here; whatever comes later is one of ours.
        config = _parse(arguments)
        if isinstance(config, EvaluateConfig):
            run = _finished_run(pathlib.Path(config.run_dir))
            command = evaluate
        elif isinstance(config, data_commands.DataConfig):
            run = data_commands.run(config)
            command = show
        else:
            run = loop.set_up(config)
            command = train
    except (ValueError, OSError) as error:
        _fail(str(error), 2)
    try:
        command(run, terminal)
    except FloatingPointError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def train(run: loop.Run, terminal: rich_console.Console) -> None:
    """Shows, trains and reports a run that is set up."""
    terminal.print(
        f"{run.config.model} on {run.dataset.name}: "
        f"{len(run.dataset.train_images):,} images to train, "
        f"{len(run.dataset.test_images):,} to test"
    )
    terminal.print(report.summary_table(state_lib.summarize(run.config, run.dataset)))
    with progress.ProgressBar(run, terminal) as bar:
        run, result = loop.train(run, bar)
    lines = run_folder.read_metrics(run.folder)
    report.save_plots(run.folder / run_folder.PLOTS, lines, run.state.opt_state)
    terminal.print(
        f"test accuracy {result['test_accuracy']:.2%} after {result['epochs']} epochs "
        f"(best {result['best_test_accuracy']:.2%} after {result['best_epoch']}), "
        f"seed {result['seed']}, {result['seconds']:.1f} s on {result['device']}",
        soft_wrap=True,
    )
    terminal.print(
        f"results and plots in {run.folder}", markup=False, emoji=False, soft_wrap=True
    )


def evaluate(run: loop.Run, terminal: rich_console.Console) -> None:
    """Evaluates a run on its test set."""
    metrics = loop.evaluate(run)
    terminal.print(
        f"test accuracy {metrics['test_accuracy']:.2%}, "
        f"top-5 {metrics['test_top5_accuracy']:.2%}, loss {metrics['test_loss']:.4f} "
        f"on {len(run.dataset.test_images):,} images of {run.dataset.name}"
    )


def show(result: Any, terminal: rich_console.Console) -> None:
    """Prints what a command of ``data`` returned."""
    terminal.print(result, markup=False, emoji=False, soft_wrap=True)


def _finished_run(folder: pathlib.Path) -> loop.Run:
    run_folder.read_result(folder)
    return loop.restore(folder)


_COMMANDS: dict[str, Callable[..., Any]] = {
    "train": config_lib.TrainConfig,
    "evaluate": EvaluateConfig,
    "data": data_commands.DataConfig,
}


def _parse(arguments: Sequence[str] | None) -> Any:
    """Parses the command line; an error becomes one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="sgdat-jax",
                description="Trains binary neural networks.",
                args=arguments,
            )
    except SystemExit as exit_:
        if exit_.code:
            message = _first_lines(errors.getvalue())
            raise ValueError(
                message.removeprefix("Error parsing TrainConfig: ")
            ) from None
        raise


def _first_lines(box: str) -> str:
    """Returns the message in Tyro's box of an error, and its suggestion, as one line.

    The box has a title, then sections divided by rules: the message, perhaps a
    suggestion, a hint to the help text.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    if lines[1:] and not lines[1].strip("-"):
        del lines[1]  # a rule below the title, where the terminal has no box characters
    sections: list[list[str]] = [[]]
    for line in lines[1:]:
        if line and not line.strip("─-"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    message = " ".join(sections[0])
    for section in sections[1:]:
        if section and section[0].startswith(("Perhaps", "Similar", "Available")):
            message += f"; {' '.join(section[:2])}"
    return message


def _fail(message: str, code: int) -> NoReturn:
    print(f"sgdat-jax: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
