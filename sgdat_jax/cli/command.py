"""The command ``sgdat-jax``."""

import codecs
import contextlib
import glob
import io
import os
import pathlib
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import IO, Any, NoReturn, cast

from rich import console as rich_console
from rich import text

from sgdat_jax import files
from sgdat_jax.cli import help as help_pages
from sgdat_jax.cli import parsing
from sgdat_jax.training import interruption

_Do = Callable[[Any, rich_console.Console], None]
_Show = Callable[..., None]
_Loading = Callable[[], contextlib.AbstractContextManager[None]]
_NO_MEMORY = "RESOURCE_EXHAUSTED"  # in what XLA raises


def main(
    arguments: Sequence[str] | None = None,
    *,
    loading: _Loading = contextlib.nullcontext,
) -> None:
    """Runs the command line.

    Args:
      arguments: words of the command line; None takes those of the process.
      loading: gives the context in which words are read and libraries imported.

    Raises:
      SystemExit: after one line on stderr: with 2 if an argument or a file is wrong,
        with 1 if training diverges or its folder cannot be written any more, with 75
        if a signal ended it and its state is saved, with 130 if it is interrupted from
        the keyboard otherwise.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _replace_what_a_terminal_lacks()
    with contextlib.redirect_stderr(cast(Any, _Output(sys.stderr))):
        _run(words, loading)


def _run(words: list[str], loading: _Loading) -> None:
    """Runs the command line, as `main`."""
    try:
        try:
            # Errors of the user are found here; whatever comes later is one of ours.
            with interruption.noticed():
                do, prepared = _set_up(words, loading)
        except parsing.Asked as asked:
            do, prepared = _show, asked.args[0]
        except (ValueError, OSError) as error:
            _fail(_text(error), 2)
        output = _Output(sys.stdout)
        _work(do, prepared, output)
        output.check()
    except (FloatingPointError, OSError) as error:
        _fail(_text(error), 1)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and _NO_MEMORY not in str(error):
            raise
        _fail(f"out of memory: {error}", 1)
    except interruption.Interrupted as interrupted:
        _fail(str(interrupted), 75)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _set_up(words: Sequence[str], loading: _Loading) -> tuple[_Do, Any]:
    """Returns what a command does, and what it does it with.

    Args:
      words: of the command line.
      loading: as in `main`.

    Raises:
      parsing.Asked: as `parsing.parse`, before anything heavy is imported.
      ValueError: if a word, a file or a folder is wrong.
      OSError: likewise.
    """
    words = parsing.arranged(words)
    if not _is_of_a_job(words):
        with loading():
            name, config = parsing.parse(words)
            _keep_compiled_programs()
            # Not needed to print a help text or to find a typing error.
            from sgdat_jax.cli import work
        return work.prepared(name, config)
    with loading():
        from sgdat_jax.cli import work
        from sgdat_jax.training.devices import hosts

    _keep_compiled_programs()
    _join_others(words)
    with hosts.one_for_all(SystemExit, hosts.Disagreement, parsing.Asked):
        with hosts.failing_together():
            name, config = parsing.parse(words)
        return work.prepared(name, config)


def _work(do: _Do, prepared: Any, output: "_Output") -> None:
    if do is _show:
        do(prepared, rich_console.Console(file=cast(IO[str], output), highlight=False))
        return
    from sgdat_jax.training.devices import hosts

    terminal = rich_console.Console(
        file=cast(IO[str], output),
        highlight=False,
        markup=False,  # labels and names of folders are the user's
        emoji=False,
        quiet=not hosts.is_writer(),
    )
    with hosts.one_for_all(FloatingPointError, interruption.Interrupted):
        do(prepared, terminal)


def _show(asked: str | text.Text, terminal: rich_console.Console) -> None:
    """Prints what the words asked for, and nothing else."""
    if isinstance(asked, str):
        terminal.out(asked, highlight=False)
    else:
        terminal.print(asked, end="", soft_wrap=True)


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
            raise OSError(f"the output could not be written: {self._error.strerror}")

    def _try(self, write: Callable[[], object]) -> None:
        if self._error is None:
            try:
                write()
            except OSError as error:
                self._error = error
                # What is still waiting would fail again when Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _keep_compiled_programs() -> None:
    """Keeps compiled programs for later runs, unless the user's own settings do.

    Without a home, or where its cache cannot be written, each run compiles anew.
    """
    name = "jax_compilation_cache_dir"
    jax = sys.modules.get("jax")
    if os.environ.get(name.upper()) or (jax and getattr(jax.config, name)):
        return
    try:
        folder = files.of_caches() / "compiled"
        files.make([folder])
    except (RuntimeError, ValueError):
        return
    if jax:
        jax.config.update(name, str(folder))
    else:
        os.environ[name.upper()] = str(folder)
    warnings.showwarning = _removing_damage(folder, warnings.showwarning)


_DAMAGED = re.compile(
    "Error (read|writ)ing persistent compilation cache entry for '(.+?)'"
)


def _removing_damage(folder: pathlib.Path, show: _Show) -> _Show:
    """Returns what shows warnings, but for those of programs that cannot be kept.

    A kill or a full disk leaves half a program. jax leaves it there, and would warn of
    it and compile anew in each run to come.

    Args:
      folder: of compiled programs, which is this command's.
      show: what shows warnings.
    """

    start = time.time()

    def removing(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        found = _DAMAGED.match(str(message))
        if not found:
            show(message, *args, **kwargs)
            return
        # The warning has no more of the name, so others of that name may go, too.
        for path in folder.glob(f"{glob.escape(found[2])}-*"):
            with contextlib.suppress(OSError):
                was_there = path.stat().st_mtime < start
                if was_there == (found[1] == "read"):
                    files.remove(path)

    return removing


# What stands in place of signs that an encoding such as ASCII lacks.
_PLAIN = {"±": "+-", "…": "...", "─": "-", "━": "-", "≤": "<=", "≥": ">="}


def _replace_what_a_terminal_lacks() -> None:
    """Writes plain signs, or ?, where the output's encoding lacks a character."""
    codecs.register_error("sgdat_jax", _in_plain_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sgdat_jax")


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in lacking), error.end


def _is_of_a_job(words: Sequence[str]) -> bool:
    """Returns whether the words make this process one of several.

    Raises:
      ValueError: if they say how and not that.
    """
    said = [word for word in words if word in ("--distributed", "--no-distributed")]
    if said[-1:] == ["--distributed"] and not help_pages.asked_for(words):
        return True
    if any(value is not None for value in _taken(words).values()):
        raise ValueError(f"This needs --distributed, got {' '.join(words)}")
    return False


def _taken(words: Sequence[str]) -> dict[str, str | None]:
    return {
        name: parsing.option_value("--" + name.replace("_", "-"), words)
        for name in ("coordinator", "process_id", "num_processes")
    }


def _join_others(words: Sequence[str]) -> None:
    """Joins this process to a job, if the command line says so."""
    from sgdat_jax.training.devices import hosts

    taken = _taken(words)
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


def _text(error: Exception) -> str:
    """Returns the message of an error, without the number of one that names a file."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror
    return str(error)


def _fail(message: str, code: int) -> NoReturn:
    print(f"sgdat-jax: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
