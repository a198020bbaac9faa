"""The command ``sgdat-jax``."""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NoReturn, Union

import jax
import tyro
from rich import console as rich_console

from sgdat_jax import __version__, files, report
from sgdat_jax.cli import data as data_commands
from sgdat_jax.cli import predict, progress, tensorboard
from sgdat_jax.data import pictures, sources
from sgdat_jax.experiments import compare as compare_lib
from sgdat_jax.experiments import configs, recipes, setup
from sgdat_jax.experiments import sweep as sweep_lib
from sgdat_jax.training import hosts, interruption, loop, parallel, run_folder, runs


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluates a finished run on the whole test set, and prints what it reached."""

    run_dir: tyro.conf.Positional[str]
    """Folder of the run, for its last state; or a file of weights, such as the best.npz
    in it."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Compares recorded runs: a table, and plots of all that they recorded.

    Damaged and unfinished runs are named and left out; those that diverged are counted.
    """

    run_dirs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of runs, or folders that hold such folders at any depth."""

    out: str = "report"
    """Folder of the table and the plots."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
      arguments: words of the command line; None takes those of the process.

    Raises:
      SystemExit: after one line on stderr: with 2 if an argument or a file is wrong,
        with 1 if training diverges or its folder cannot be written any more, with 75
        if a signal ended it and its state is saved, with 130 if it is interrupted from
        the keyboard otherwise.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"sgdat-jax {__version__}")
        return
    _replace_what_a_terminal_lacks()
    _keep_compiled_programs()
    try:
        try:
            # Errors of the user are found here; whatever comes later is one of ours.
            words = _join_others(words)
            with hosts.one_for_all(SystemExit, hosts.Disagreement):
                with hosts.failing_together():
                    config, set_up, command = _parse(words)
                work = set_up(config)
        except (ValueError, OSError) as error:
            _fail(str(error), 2)
        terminal = rich_console.Console(highlight=False, quiet=not hosts.is_writer())
        with hosts.one_for_all(FloatingPointError, interruption.Interrupted):
            command(work, terminal)
    except (FloatingPointError, OSError) as error:
        _fail(str(error), 1)
    except interruption.Interrupted as interrupted:
        _fail(str(interrupted), 75)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def train(run: runs.Run, terminal: rich_console.Console) -> None:
    """Shows, trains and reports a run that is set up."""
    config, folder = run.config, run.folder
    assert isinstance(config, configs.TrainConfig) and folder is not None
    _print_task(config, run.dataset, terminal)
    _print_notes(run.notes)
    if hosts.as_writer(run_folder.is_finished(folder)):
        terminal.print("already finished")
    else:
        run = _train(run, folder, config.tensorboard, terminal)
    opt_state = None
    if run.steps_done:  # not if the last state of a finished run is damaged or gone
        opt_state = parallel.gather(run.task.layout, run.state.opt_state)
    if not hosts.is_writer():
        return
    result = run_folder.read_result(folder)
    if opt_state is not None:
        lines = run_folder.read_metrics(folder)
        report.save_plots(folder / run_folder.PLOTS, lines, opt_state)
    terminal.print(
        f"test accuracy {result['test_accuracy']:.2%} after {result['epochs']} epochs "
        f"(best {result['best_test_accuracy']:.2%} after {result['best_epoch']}), "
        f"seed {result['seed']}, {result['seconds']:.1f} s on {result['device']}",
        soft_wrap=True,
    )
    _print_path("results and plots in", folder, terminal)


def _train(
    run: runs.Run,
    folder: pathlib.Path,
    with_events: bool,
    terminal: rich_console.Console,
) -> runs.Run:
    if run.steps_done:
        terminal.print(f"goes on after step {run.steps_done:,}")
    how = f"sgdat-jax train --resume {shlex.quote(str(folder))}"
    with contextlib.ExitStack() as stack:
        check = stack.enter_context(_saving_at_signals(how))
        bar = progress.ProgressBar(run, terminal)
        watchers: list[loop.Watcher] = [stack.enter_context(bar)]
        if with_events and hosts.is_writer():
            events = tensorboard.EventFile(folder / run_folder.TENSORBOARD)
            watchers.append(stack.enter_context(events))
        return loop.train(run, loop.Watchers(watchers), check)[0]


def compare(comparison: compare_lib.Comparison, terminal: rich_console.Console) -> None:
    """Trains what is still to do of a comparison, and reports all of it."""
    config = comparison.config
    _print_task(config, comparison.dataset, terminal)
    done = comparison.total - sum(map(len, comparison.todo))
    terminal.print(f"{comparison.total} runs, {done} of them finished before")
    watch = functools.partial(progress.ProgressBar, terminal=terminal, lines=False)
    with _saving_at_signals("the same command") as check:
        for outcome in compare_lib.train_all(comparison, watch, check):
            done += 1
            result = outcome.result
            measured = "diverged"
            if result:
                measured = f"{result['test_accuracy']:.2%}, {result['seconds']:.1f} s"
            terminal.print(
                f"{done}/{comparison.total}  {outcome.config.run_dir}: {measured}",
                markup=False,
                emoji=False,
                soft_wrap=True,
            )
    folders = [
        config.folder / name / f"seed{seed}"
        for name in dict.fromkeys(config.optimizers)
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    runs = _read_runs(folders)
    if not runs:
        _fail("no run can be read", 1)
    _report(report.group_runs(runs), config.folder, terminal)
    if all(run.diverged for run in runs):
        raise FloatingPointError("all runs diverged")


def sweep(prepared: sweep_lib.Sweep, terminal: rich_console.Console) -> None:
    """Trains what is still to do of a sweep, and reports all of it."""
    config = prepared.config
    _print_task(config, prepared.plan.dataset, terminal)
    _print_notes(prepared.notes)
    done = prepared.total - len(prepared.todo)
    terminal.print(f"{prepared.total} models, {done} of them finished before")
    for lines in sweep_lib.train_all(prepared):
        for line in lines:
            done += 1
            values = line["hyperparameters"].items()
            accuracy = f"{line['test_accuracy']:.2%}"
            terminal.print(
                f"{done}/{prepared.total}  "
                + "  ".join(f"{name} {value:g}" for name, value in values)
                + f"  seed {line['seed']}: "
                + ("diverged" if line["diverged"] else accuracy)
                + f", {line['seconds']:.1f} s",
                soft_wrap=True,
            )
    trials = sweep_lib.read(config.folder)
    terminal.print(report.settings_table(report.rank_settings(trials)))
    report.write_sweep(config.folder, trials)
    _print_path("table, raw numbers and heat map in", config.folder, terminal)


def report_runs(
    work: tuple[list[report.Group], pathlib.Path], terminal: rich_console.Console
) -> None:
    """Reports recorded runs."""
    _report(*work, terminal)


def evaluate(run: runs.Run, terminal: rich_console.Console) -> None:
    """Evaluates a run on its test set."""
    metrics = loop.evaluate(run)
    top5 = f"top-5 {metrics['test_top5_accuracy']:.2%}, "
    if run.dataset.num_classes <= 5:
        top5 = ""  # it is 100 %
    terminal.print(
        f"test accuracy {metrics['test_accuracy']:.2%}, {top5}"
        f"loss {metrics['test_loss']:.4f} "
        f"on {len(run.dataset.test_images):,} images of {run.dataset.name}"
    )


def show(result: Any, terminal: rich_console.Console) -> None:
    """Prints what a command of ``data`` returned."""
    terminal.print(result, markup=False, emoji=False, soft_wrap=True)


@contextlib.contextmanager
def _saving_at_signals(how: str) -> Iterator[interruption.Check]:
    """Lets a block that saves runs end at signals, and says how to go on after it."""
    with interruption.until_signal() as check:
        try:
            yield check
        except interruption.Interrupted as interrupted:
            message = f"{interrupted}: the run is saved; it goes on with {how}"
            raise interruption.Interrupted(message) from None


def _report(
    groups: list[report.Group], folder: pathlib.Path, terminal: rich_console.Console
) -> None:
    rows = report.compare_runs(groups)
    terminal.print(report.comparison_table(rows))
    report.write_comparison(folder, groups)
    _print_path("table and plots in", folder, terminal)


def _print_task(
    config: configs.BaseConfig,
    dataset: sources.Dataset,
    terminal: rich_console.Console,
) -> None:
    terminal.print(
        f"{config.model} on {dataset.name}: "
        f"{len(dataset.train_images):,} images to train, "
        f"{len(dataset.test_images):,} to test"
    )
    for note in dataset.notes:
        terminal.print(note, markup=False, emoji=False, soft_wrap=True)
    terminal.print(report.summary_table(setup.summarize(config, dataset)))


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"sgdat-jax: not used: {note}", file=sys.stderr)


def _print_path(text: str, path: pathlib.Path, terminal: rich_console.Console) -> None:
    terminal.print(f"{text} {path}", markup=False, emoji=False, soft_wrap=True)


def _read_groups(config: ReportConfig) -> tuple[list[report.Group], pathlib.Path]:
    groups = report.group_runs(_read_runs(config.run_dirs))
    out = pathlib.Path(config.out)
    files.make([out], "out")
    return groups, out


def _read_runs(folders: Sequence[str | pathlib.Path]) -> list[report.Run]:
    """Reads runs that have ended, and names what else there is."""
    runs, skipped = report.read_runs(folders)
    for message in skipped:
        print(f"sgdat-jax: skipped: {message}", file=sys.stderr)
    return runs


def _new_run(config: configs.TrainConfig) -> runs.Run:
    if config.tensorboard:
        tensorboard.check_installed()
    return setup.set_up(config)


def _resumed_run(config: configs.TrainConfig) -> runs.Run:
    if config.tensorboard:
        tensorboard.check_installed()
    return setup.resume(config)


def _finished_run(config: EvaluateConfig) -> runs.Run:
    path = pathlib.Path(config.run_dir)
    if os.path.isfile(path):  # unlike pathlib's, it bears a name that is too long
        if path.suffix.lower() in pictures.SUFFIXES | pictures.OTHER_SUFFIXES:
            raise ValueError(
                "evaluate takes the folder of a run or a file of weights, such as its "
                f"best.npz, got {path}. What pictures show is for sgdat-jax predict: "
                f"sgdat-jax predict best.npz {path}"
            )
        return setup.restore_weights(path)
    run_folder.read_result(path)
    return setup.restore(path)


# Name: its options, what sets it up (and finds errors of the user), and what does it.
_COMMANDS: dict[str, tuple[type, Callable[[Any], Any], Callable[..., None]]] = {
    "train": (configs.TrainConfig, _new_run, train),
    "compare": (configs.CompareConfig, compare_lib.set_up, compare),
    "sweep": (configs.SweepConfig, sweep_lib.set_up, sweep),
    "evaluate": (EvaluateConfig, _finished_run, evaluate),
    "report": (ReportConfig, _read_groups, report_runs),
    "data": (data_commands.DataConfig, data_commands.run, show),
    "predict": (predict.PredictConfig, predict.set_up, predict.run),
}


def _keep_compiled_programs() -> None:
    """Keeps compiled programs for later runs, unless the user's own settings do.

    Without a home, or where its cache cannot be written, each run compiles anew.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(caches, "sgdat_jax", "compiled")
        files.make([folder])
    except (RuntimeError, ValueError):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _replace_what_a_terminal_lacks() -> None:
    """Lets output in another encoding have ? in place of signs that it lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _parse(
    words: Sequence[str],
) -> tuple[Any, Callable[[Any], Any], Callable[..., None]]:
    """Parses the command line; returns the options, what sets them up and does them.

    Raises:
      ValueError: of one line, if a word is wrong.
    """
    words, recipe = _take("--recipe", words)
    words, run_dir = _take("--resume", words)
    name = words[0] if words else ""
    default = _defaults(name, recipe, run_dir)
    commands: Any = Union[  # noqa: UP007, as it is not of types known here
        tuple(
            Annotated[
                options,
                tyro.conf.subcommand(key, default=default)
                if key == name and default is not None
                else tyro.conf.subcommand(key),
            ]
            for key, (options, *_) in _COMMANDS.items()
        )
    ]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config = tyro.cli(
                commands,
                prog="sgdat-jax",
                description="Trains binary neural networks.",
                args=words,
            )
    except SystemExit as exit_:
        if exit_.code:
            message = _first_lines(errors.getvalue())
            raise ValueError(
                re.sub("^Error parsing [A-Z][A-Za-z]*: ", "", message)
            ) from None
        raise
    _, set_up, command = _COMMANDS[name]
    if run_dir is not None:
        config, set_up = dataclasses.replace(config, run_dir=run_dir), _resumed_run
    return config, set_up, command


def _join_others(words: list[str]) -> list[str]:
    """Makes this process one of a job if the words say so, and returns the others."""
    rest = [word for word in words if word != "--distributed"]
    taken = {}
    for name in ("coordinator", "process_id", "num_processes"):
        rest, taken[name] = _take("--" + name.replace("_", "-"), rest)
    if len(rest) == len(words):
        return rest
    if "--distributed" not in words:
        raise ValueError(f"This needs --distributed, got {' '.join(words)}")
    if words[0] != "train" or not {"--run-dir", "--resume"}.intersection(
        word.partition("=")[0] for word in words
    ):
        raise ValueError(
            "Only train takes --distributed, with a --resume or --run-dir that all "
            f"processes can write, got {' '.join(words)}"
        )
    hosts.join(
        taken["coordinator"],
        _number("process_id", taken["process_id"]),
        _number("num_processes", taken["num_processes"]),
    )
    return rest


def _number(name: str, word: str | None) -> int | None:
    if word is not None and not word.isdecimal():
        raise ValueError(f"{name} must be a number, got {word}.")
    return None if word is None else int(word)


def _take(option: str, words: Sequence[str]) -> tuple[list[str], str | None]:
    """Returns the words without an option that has one value, and the value."""
    rest, values = [], []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name == option:
            values.append(value if equals else next(left, ""))
        else:
            rest.append(word)
    if len(values) > 1 or "" in values:
        raise ValueError(f"{option} must have one value, got {' '.join(words)}")
    return rest, values[0] if values else None


def _defaults(name: str, recipe: str | None, run_dir: str | None) -> Any:
    """Returns the defaults of a command's options; None: those of their type."""
    options = _COMMANDS[name][0] if name in _COMMANDS else object
    if run_dir is not None:
        if options is not configs.TrainConfig:
            raise ValueError(f"Only train takes --resume, got it for {name}.")
        if recipe is None and not run_folder.is_empty(pathlib.Path(run_dir)):
            return run_folder.read_config(pathlib.Path(run_dir), configs.TrainConfig)
    if recipe is None:
        return None
    if not issubclass(options, configs.BaseConfig):
        raise ValueError(f"{name} takes no --recipe, got {recipe}.")
    return recipes.config(options, recipe)


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
