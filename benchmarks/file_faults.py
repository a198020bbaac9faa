"""Disks that are full, files that are damaged or of others, and what becomes of runs.

All commands run in this process, on a network that compiles at once.
"""

import contextlib
import io
import os
import pathlib
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import mutations, small_net, strangers
from sgdat_jax import cli, run_folder
from sgdat_jax.training import checkpoint

_ROOM = (0, 50, 500, 2_000, 10_000, 30_000, 60_000, 100_000, 200_000)  # bytes of a file
_WORDS = ("--model", small_net.TinyNet.__name__, "--batch-size", "256")


class Ended(NamedTuple):
    """How a command has ended."""

    code: int
    error: str  # on stderr
    fault: str  # a traceback, or more than a line of error; empty: none


def run(*words: str) -> Ended:
    """Runs a command; whatever it raises is a fault."""
    errors, code, fault = io.StringIO(), 0, ""
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(words)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        except BaseException as error:
            fault = f"{' '.join(words)}: {error!r}"
    text = errors.getvalue()
    lines = [line for line in text.splitlines() if "error: " in line]
    if not fault and (len(lines) != (code > 0) or "Traceback" in text):
        fault = f"{' '.join(words)} ended with {code}: {text[-300:]}"
    return Ended(code, text, fault)


def whole_run(folder: pathlib.Path) -> pathlib.Path:
    """Makes a finished run, for what follows."""
    ended = run("train", "--run-dir", str(folder), "--epochs", "4", *_WORDS)
    if ended.code or ended.fault:
        raise RuntimeError(f"a run without faults must end well, got {ended}")
    return folder


def interrupted_run(folder: pathlib.Path) -> pathlib.Path:
    """Makes a run like `whole_run` that has been stopped within an epoch."""
    from sgdat_jax.experiments import configs, setup
    from sgdat_jax.training import interruption, loop

    config = configs.TrainConfig(
        model=_WORDS[1],
        batch_size=256,
        epochs=4,
        save_every_steps=3,
        run_dir=str(folder),
    )
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 14:
            raise interruption.Interrupted("here")

    run_ = setup.set_up(config)
    try:
        loop.train(run_, loop.Watcher(), check)
    except interruption.Interrupted:
        run_.lock.release()
        return folder
    raise RuntimeError("the run was not interrupted")


@contextlib.contextmanager
def _room(size: int) -> Iterator[None]:
    """Lets no file grow beyond a size, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def full_disk(
    whole: pathlib.Path, folder: pathlib.Path, chance: random.Random
) -> list[str]:
    """Trains where files cannot grow, then goes on where they can; returns faults."""
    words = ("train", "--resume", str(folder), "--epochs", "4", *_WORDS)
    with _room(chance.choice(_ROOM)):
        first = run(*words)
    second = run(*words)
    faults = [ended.fault for ended in (first, second) if ended.fault]
    if second.code or _metrics(folder) != _metrics(whole):
        faults.append(f"it did not go on after {first.error!r}: {second.error!r}")
    return faults


def damage(
    whole: pathlib.Path,
    stopped: pathlib.Path,
    folder: pathlib.Path,
    chance: random.Random,
) -> list[str]:
    """Damages a file of a run that was stopped, and goes on with it; returns faults.

    It must end as if it had not been stopped, or be refused in one line, which may
    happen for its config alone.
    """
    shutil.copytree(stopped, folder)
    victims = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != run_folder.LOCK
    ]
    file = chance.choice(victims)
    kind = _spoil(file, chance)
    ended = run("train", "--resume", str(folder))
    faults = [ended.fault] if ended.fault else []
    name = file.relative_to(folder)
    is_config = name == pathlib.Path(run_folder.CONFIG)
    if ended.code and not is_config and kind in ("changed", "gone"):
        faults.append(f"{name} {kind}: {ended.error}")
    if not ended.code and not is_config and _metrics(folder) != _metrics(whole):
        faults.append(f"{name} {kind}: another result")
    return faults


def _spoil(file: pathlib.Path, chance: random.Random) -> str:
    content = file.read_bytes()
    kind = chance.choice(["changed", "changed", "gone", "folder", "pipe", "link"])
    file.unlink()
    if kind == "changed":
        file.write_bytes(mutations.content(chance, content))
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/dev/zero")
    return kind


def strange_files(stopped: pathlib.Path, folder: pathlib.Path) -> tuple[int, list[str]]:
    """Puts strange files in all folders of a run; returns how many, and faults."""
    outside = strangers.outside(folder)
    run_ = shutil.copytree(stopped, folder / "run")
    before = strangers.contents(folder)
    strangers.put(run_, outside)
    strange = {
        name: content
        for name, content in strangers.contents(folder).items()
        if name not in before or name.startswith("outside")
    }
    faults = []
    for words in (
        ("train", "--resume", str(run_)),
        ("train", "--resume", str(run_), "--epochs", "5", "--tensorboard"),
        ("evaluate", str(run_)),
        ("evaluate", str(run_ / run_folder.BEST)),
        ("report", str(run_), "--out", str(run_ / "checkpoints")),
        ("export", str(run_), "--to", "npz", "--out", str(run_ / "plots" / "net.npz")),
    ):
        ended = run(*words)
        if ended.fault or ended.code:
            faults.append(f"{words}: {ended.fault or ended.error}")
        now = strangers.contents(folder)
        lost = [name for name in strange if now.get(name, "") != strange[name]]
        if lost:
            faults.append(f"{words} changed {lost[:5]}")
    if not checkpoint.steps(run_ / run_folder.CHECKPOINTS):
        faults.append("no saved state is left")
    return len(strange), faults


def _metrics(folder: pathlib.Path) -> str:
    file = folder / run_folder.METRICS
    return file.read_text() if file.is_file() else ""
