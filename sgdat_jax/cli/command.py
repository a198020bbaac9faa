"""The command ``sgdat-jax``."""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import IO, Annotated, Any, NoReturn, Union, cast

import jax
import tyro
from rich import console as rich_console

from sgdat_jax import __version__, files
from sgdat_jax.cli import options
from sgdat_jax.experiments import plugins
from sgdat_jax.training import hosts, interruption

# Options from which the defaults of the others come.
_EARLY = ("recipe", "config", "resume", "rows")
_NO_MEMORY = "RESOURCE_EXHAUSTED"  # in what XLA raises
# Options that an unset variable of a shell must not send elsewhere.
_PATHS = ("--run-dir", "--data-dir", "--out")


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
            with interruption.noticed():
                _join_others(words)
                with hosts.one_for_all(SystemExit, hosts.Disagreement):
                    do, prepared = _set_up(words)
        except (ValueError, OSError) as error:
            _fail(str(error), 2)
        output = _Output(sys.stdout)
        terminal = rich_console.Console(
            file=cast(IO[str], output),
            highlight=False,
            markup=False,  # labels and names of folders are the user's
            emoji=False,
            quiet=not hosts.is_writer(),
        )
        with hosts.one_for_all(FloatingPointError, interruption.Interrupted):
            do(prepared, terminal)
        output.check()
    except (FloatingPointError, OSError) as error:
        _fail(str(error), 1)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and _NO_MEMORY not in str(
            error
        ):
            raise
        _fail(f"out of memory: {error}", 1)
    except interruption.Interrupted as interrupted:
        _fail(str(interrupted), 75)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _set_up(words: Sequence[str]) -> tuple[Callable[..., None], Any]:
    """Returns what a command does, and what it does it with."""
    with hosts.failing_together():
        name, config = _parse(words)
    # Not needed to print a help text or to find a typing error.
    from sgdat_jax.cli import work

    set_up, do = work.WORK[name]
    return do, set_up(config)


class _Output:
    """A stream that swallows what it cannot write, as results are worth more.

    Args:
      stream: the terminal, or where its text goes.
    """

    def __init__(self, stream: IO[str]):
        self._stream = stream
        self._error: OSError | None = None

    def write(self, text: str) -> int:
        """Writes if it can."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Writes what is waiting if it can."""
        self._try(self._stream.flush)

    def check(self) -> None:
        """Raises OSError if something could not be written."""
        self.flush()
        if self._error is not None:
            # What is still waiting would fail again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise OSError(f"the output could not be written: {self._error.strerror}")

    def _try(self, write: Callable[[], object]) -> None:
        if self._error is None:
            try:
                write()
            except OSError as error:
                self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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


def _parse(words: Sequence[str]) -> tuple[str, Any]:
    """Parses the command line; returns the work to do, and its config.

    Raises:
      ValueError: of one line, if a word is wrong.
      SystemExit: after printing what was asked for.
    """
    place = next((i for i, w in enumerate(words) if w in options.COMMANDS), 0)
    if words and words[0].startswith("--"):
        words = [words[place], *words[:place], *words[place + 1 :]]
    words, _ = _gathered("--set", words)
    words, modules = _gathered("--plugin", words)
    plugins.load(modules)
    name = words[0] if words else ""
    for option in _PATHS:
        if "" in _values(option, words):
            raise ValueError(f"{option} must not be empty.")
    given = {key: _value(f"--{key}", words) for key in _EARLY}
    default = options.defaults(name, given) if name in options.COMMANDS else None
    commands: Any = Union[  # noqa: UP007, as it is not of types known here
        tuple(
            Annotated[
                kind,
                tyro.conf.subcommand(key, default=default)
                if key == name and default is not None
                else tyro.conf.subcommand(key),
            ]
            for key, (kind, _) in options.COMMANDS.items()
        )
    ]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(
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
    config = options.config_of(name, parsed)
    if getattr(parsed, "print_config", False):
        print(files.to_toml(dataclasses.asdict(config)), end="")
        raise SystemExit(0)
    if given["resume"] is not None:
        return "resume", dataclasses.replace(config, run_dir=given["resume"])
    return name, config


def _join_others(words: Sequence[str]) -> None:
    """Makes this process one of a job if the words say so."""
    taken = {
        name: _value("--" + name.replace("_", "-"), words)
        for name in ("coordinator", "process_id", "num_processes")
    }
    if "--distributed" not in words:
        if any(value is not None for value in taken.values()):
            raise ValueError(f"This needs --distributed, got {' '.join(words)}")
        return
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


def _number(name: str, word: str | None) -> int | None:
    if word is not None and not word.isdecimal():
        raise ValueError(f"{name} must be a number, got {word}.")
    return None if word is None else int(word)


def _value(option: str, words: Sequence[str]) -> str | None:
    """Returns the value of an option that is needed before the others are parsed."""
    values = _values(option, words)
    if len(values) > 1 or "" in values:
        raise ValueError(f"{option} must have one value, got {' '.join(words)}")
    return values[0] if values else None


def _values(option: str, words: Sequence[str]) -> list[str]:
    values = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name == option:
            values.append(value if equals else next(left, ""))
    return values


def _gathered(option: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns words with a repeated option gathered at their end, and its values.

    It has one value each time, or several of the form NAME=VALUE.
    """
    rest: list[str] = []
    values: list[str] = []
    left = list(words)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name != option:
            rest.append(f"{name}{equals}{value}")
            continue
        if not equals:
            value = left.pop(0) if left else ""
        if not value or value.startswith("--"):
            raise ValueError(f"{option} must have a value, got {' '.join(words)}")
        values.append(value)
        while left and not left[0].startswith("-") and "=" in left[0] and not equals:
            values.append(left.pop(0))
    return [*rest, *([option, *values] if values else [])], values


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
