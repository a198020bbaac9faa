"""Entry point of ``sgdat-jax`` and ``python -m sgdat_jax``.

An interrupt ends the command with one line even while libraries are imported or ended,
unless the command was started to ignore it.
"""

import atexit
import contextlib
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_INTERRUPTED = 130  # the exit code, as of shells


def main() -> None:
    """Runs the command line, or says what to install for it."""
    # Called last of all, when only the interpreter is left to be taken down: Python
    # drops handlers before that, and a late interrupt would look like a failure.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    _open_what_is_closed()
    with _ending_at_once():
        run = _load()
    code = 1
    try:
        run(loading=_ending_at_once)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
        if code == _INTERRUPTED:
            # What still computes may crash when the libraries are taken down.
            _leave(code)
        raise
    finally:
        # All is done and said; the libraries may take their time to end.
        _at_interrupts(lambda number, frame: _leave(code))


def _open_what_is_closed() -> None:
    """Takes the places of streams that a shell has closed, as by ``>&-``.

    The next file would take them, and what libraries print would go into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Ends the process at an interrupt: libraries rename it while they are imported."""
    before = _at_interrupts(_end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _at_interrupts(act: Callable[[int, types.FrameType | None], None]) -> Any:
    """Does something at interrupts from now on; returns what was done before."""
    before = signal.getsignal(signal.SIGINT)
    # Ignored from the start, as in the background of a script, it stays so.
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, act)
    return before


def _load() -> Callable[..., None]:
    try:
        from sgdat_jax import cli, cpu
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sgdat_jax"):
            raise
        print(
            f"sgdat-jax: error: {error.name} is not installed; the training program "
            "needs: pip install 'sgdat-jax[train]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    cpu.keep_freed_memory()
    return cli.main


def _end(number: int, frame: types.FrameType | None) -> None:
    os.write(2, b"sgdat-jax: error: interrupted\n")
    os._exit(_INTERRUPTED)


def _leave(code: int) -> NoReturn:
    """Ends the process at once, with what it has printed."""
    with contextlib.suppress(OSError, RuntimeError):  # or it is just being written
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
