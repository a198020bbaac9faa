"""What the commands do: set up, which finds errors of the user, then work."""

import contextlib
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rich import box, table
from rich import console as rich_console

from sgdat_jax import files, lookups, report, run_folder
from sgdat_jax.cli import data as data_commands
from sgdat_jax.cli import export as export_commands
from sgdat_jax.cli import options, predict, progress, tensorboard
from sgdat_jax.data import pictures, sources
from sgdat_jax.experiments import compare as compare_lib
from sgdat_jax.experiments import configs, methods, recipes, setup
from sgdat_jax.experiments import sweep as sweep_lib
from sgdat_jax.inference import classifier
from sgdat_jax.training import interruption, loop, runs
from sgdat_jax.training.devices import hosts


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
        opt_state = run.task.layout.gather(run.state.opt_state)
    if not hosts.is_writer():
        return
    result = run_folder.read_result(folder)
    if opt_state is not None:
        lines = run_folder.read_metrics(folder)
        subject = ", ".join([*report.subject_of(config), config.optimizer])
        report.save_plots(folder / run_folder.PLOTS, lines, opt_state, subject)
    terminal.print(
        f"test accuracy {result['test_accuracy']:.2%} after {result['epochs']} epochs "
        f"(best by {result.get('selected_by', 'test')}: "
        f"{result['best_test_accuracy']:.2%} after {result['best_epoch']}), "
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
    total = progress.Total(terminal, comparison.total, done)

    def watch(run: runs.Run) -> progress.ProgressBar:
        assert run.folder is not None
        total.begin(f"{run.folder.parent.name}, seed {run.config.seed}")
        return progress.ProgressBar(run, terminal, total)

    with _saving_at_signals("the same command") as check, total:
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
    recorded = _read_runs(folders)
    if not recorded:
        raise OSError("no run can be read")
    groups = report.group_runs(recorded)
    reference = None
    if config.reference is not None:  # its label tells of more than its name
        folders = [config.folder / config.reference]
        found = (g for g in groups if _first(g).folder.parent in folders)
        reference = next((group.label for group in found), None)
    options = _Reported(config.folder, reference, config.select_on_test)
    _report(groups, options, terminal)
    if all(run.diverged for run in recorded):
        raise FloatingPointError("all runs diverged")


def sweep(prepared: sweep_lib.Sweep, terminal: rich_console.Console) -> None:
    """Trains what is still to do of a sweep, and reports all of it."""
    config = prepared.config
    _print_task(config, prepared.plan.dataset, terminal)
    _print_notes(prepared.notes)
    done = prepared.total - len(prepared.todo)
    terminal.print(f"{prepared.total} models, {done} of them finished before")
    total = progress.Total(terminal, prepared.total, done)
    bar = progress.SweepBar(
        total, terminal, config.epochs, prepared.plan.steps_per_epoch
    )
    kept = "the models that have ended are kept"
    with _saving_at_signals("the same command", kept) as check, total:
        for lines in sweep_lib.train_all(prepared, bar, check):
            for line in lines:
                done += 1
                terminal.print(
                    f"{done}/{prepared.total}  {_trial(line)}", soft_wrap=True
                )
    trials = sweep_lib.read(config.folder)
    terminal.print(report.settings_table(report.rank_settings(trials)))
    report.write_sweep(config.folder, trials)
    _print_path("table, raw numbers and heat map in", config.folder, terminal)


def _trial(line: dict[str, Any]) -> str:
    values = line["hyperparameters"].items()
    reached = "diverged" if line["diverged"] else f"{line['test_accuracy']:.2%}"
    return (
        "  ".join(f"{name} {value:g}" for name, value in values)
        + f"  seed {line['seed']}: {reached}, {line['seconds']:.1f} s"
    )


def report_runs(
    work: tuple[list[report.Group], "_Reported"], terminal: rich_console.Console
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
        + (", weights of the last epoch" if run.steps_done else ""),
        soft_wrap=True,
    )


def list_recipes(config: options.Recipes) -> table.Table:
    """Returns the table of the paper's experiments."""
    listed = table.Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for header in ("recipe", "network"):
        listed.add_column(header, no_wrap=True)
    for header in ("epochs", "images", "MACs", "CPU hours"):
        listed.add_column(header, justify="right")
    for name, settings in recipes.TASKS.items():
        cost = recipes.cost(name)
        listed.add_row(
            name,
            settings["model"],
            str(settings["epochs"]),
            f"{cost.images / 1e6:g} M",
            f"{cost.macs / 1e6:.0f} M",
            f"{cost.cpu_hours:.0f}",
        )
    listed.caption = (
        "images: seen in training, over all epochs. MACs: of a forward pass of one.\n"
        "CPU hours: on two cores with AVX-512, about, from rates at 32x32; an NVIDIA\n"
        "H200 took 0.56 s for an epoch of BinaryNet on CIFAR-10 in bfloat16.\n"
        f"train also takes RECIPE-METHOD:\n{', '.join(methods.PAPER)}"
    )
    listed.caption_justify = "left"
    return listed


def show(result: Any, terminal: rich_console.Console) -> None:
    """Prints what a command returned."""
    terminal.print(result, markup=False, emoji=False, soft_wrap=True)


@contextlib.contextmanager
def _saving_at_signals(
    how: str, kept: str = "the run is saved"
) -> Iterator[interruption.Check]:
    """Lets a block that saves runs end at signals, and says how to go on after it."""
    with interruption.until_signal(_tell) as check:
        try:
            yield check
        except interruption.Interrupted as interrupted:
            message = f"{interrupted}: {kept}; it goes on with {how}"
            raise interruption.Interrupted(message) from None


def _tell(number: signal.Signals) -> None:
    """Says in a terminal that a signal was heard: a program may be being compiled."""
    if sys.stderr.isatty():
        # A print that the signal has interrupted cannot be entered again.
        with contextlib.suppress(RuntimeError):
            print(
                f"sgdat-jax: {number.name}: ends after the step under way; a second "
                "signal ends it at once",
                file=sys.stderr,
            )


class _Reported(NamedTuple):
    """Where a report goes, and what it shows."""

    folder: pathlib.Path
    reference: str | None
    select_on_test: bool


def _first(group: report.Group) -> report.Run:
    return next(iter((*group.runs, *group.diverged)))


def _report(
    groups: list[report.Group], to: _Reported, terminal: rich_console.Console
) -> None:
    rows = report.compare_runs(groups)
    terminal.print(report.comparison_table(rows, select_on_test=to.select_on_test))
    differences = report.compare_pairs(groups, to.reference)
    if any(len(row["seeds"]) > 1 for row in differences):
        terminal.print(f"minus {differences[0]['reference']}, seed by seed:")
        terminal.print(report.differences_table(differences))
    report.write_comparison(
        to.folder, groups, reference=to.reference, select_on_test=to.select_on_test
    )
    _print_path("tables, plots and report.html in", to.folder, terminal)


def _print_task(
    config: configs.BaseConfig,
    dataset: sources.Dataset,
    terminal: rich_console.Console,
) -> None:
    held = 0 if dataset.valid_images is None else len(dataset.valid_images)
    terminal.print(
        f"{config.model} on {dataset.name}: "
        f"{len(dataset.train_images):,} images to train, "
        + (f"{held:,} to pick the best epoch, " if held else "")
        + f"{len(dataset.test_images):,} to test"
    )
    for note in dataset.notes:
        terminal.print(note, markup=False, emoji=False, soft_wrap=True)
    terminal.print(report.summary_table(setup.summarize(config, dataset)))


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"sgdat-jax: not used: {note}", file=sys.stderr)


def _print_path(text: str, path: pathlib.Path, terminal: rich_console.Console) -> None:
    terminal.print(f"{text} {path}", markup=False, emoji=False, soft_wrap=True)


def _read_groups(config: options.Report) -> tuple[list[report.Group], _Reported]:
    groups = report.group_runs(_read_runs(config.run_dirs))
    report.compare_pairs(groups, config.reference)  # finds an unknown one
    out = pathlib.Path(config.out)
    report.comparison.check_place(out, "out")
    files.make([out], "out")
    return groups, _Reported(out, config.reference, config.select_on_test)


def _read_runs(folders: Sequence[str | pathlib.Path]) -> list[report.Run]:
    """Reads runs that have ended, and names what else there is."""
    runs, skipped = report.read_runs(folders)
    for message in skipped:
        print(f"sgdat-jax: skipped: {message}", file=sys.stderr)
    return runs


def _new_comparison(config: configs.CompareConfig) -> compare_lib.Comparison:
    if not any(config.folder.glob(f"*/seed*/{run_folder.CONFIG}")):
        report.comparison.check_place(config.folder, "run_dir")
    return compare_lib.set_up(config)


def _new_run(config: configs.TrainConfig) -> runs.Run:
    if config.tensorboard:
        tensorboard.check_installed()
    return setup.set_up(config)


def _resumed_run(config: configs.TrainConfig) -> runs.Run:
    if config.tensorboard:
        tensorboard.check_installed()
    return setup.resume(config)


def _finished_run(config: options.Evaluate) -> runs.Run:
    path = pathlib.Path(config.run_dir)
    if not os.path.lexists(path):
        path = classifier.find(path)  # digits, which is installed
    if os.path.isfile(path):  # pathlib's raises for an over-long name
        if path.suffix.lower() in pictures.SUFFIXES | pictures.OTHER_SUFFIXES:
            raise ValueError(
                "evaluate takes the folder of a run or a file of weights, such as its "
                f"best.npz, got {path}. To classify pictures: "
                f"sgdat-jax predict best.npz {path}"
            )
        return setup.restore_weights(path, allow_changed_data=config.allow_changed_data)
    run_folder.read_result(path)
    return setup.restore(path, allow_changed_data=config.allow_changed_data)


class Work(NamedTuple):
    """What a command does."""

    set_up: Callable[[Any], Any]  # of its config; finds errors of the user
    do: Callable[[Any, rich_console.Console], None]


WORK = {
    "train": Work(_new_run, train),
    "resume": Work(_resumed_run, train),
    "compare": Work(_new_comparison, compare),
    "sweep": Work(sweep_lib.set_up, sweep),
    "evaluate": Work(_finished_run, evaluate),
    "report": Work(_read_groups, report_runs),
    "data": Work(data_commands.run, show),
    "export": Work(export_commands.export, show),
    "import": Work(export_commands.import_weights, show),
    "predict": Work(predict.set_up, predict.run),
    "recipes": Work(list_recipes, show),
}


def prepared(
    name: str, config: Any
) -> tuple[Callable[[Any, rich_console.Console], None], Any]:
    """Returns what a command does, and what it does it with.

    Args:
      name: a key of `WORK`.
      config: of the command.
    """
    lookups.look_up_gradients()
    set_up, do = WORK[name]
    return do, set_up(config)
