"""Ending a run at a safe point when the system or the user asks for it."""

import contextlib
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

Check = Callable[[], None]  # raises Interrupted if a signal has come


# Comes when a terminal is closed or its connection breaks; Windows lacks it.
_REPEATED = "SIGHUP"
_NAMES = ("SIGTERM", "SIGINT", _REPEATED)


class Interrupted(Exception):
    """A signal has come; its name is the message."""


def never() -> None:
    """Checks for nothing."""


def is_ignored(number: signal.Signals) -> bool:
    """Returns whether a signal is ignored, as jobs in the background of scripts do."""
    return signal.getsignal(number) == signal.SIG_IGN


@contextlib.contextmanager
def until_signal(
    tell: Callable[[signal.Signals], object] = lambda number: None,
) -> Iterator[Check]:
    """Holds SIGTERM, SIGINT and SIGHUP back until the block checks for them.

    A second signal acts at once, as it does outside of the block, but for SIGHUP, which
    a shell repeats as it ends. What this process was started to ignore, as by
    ``nohup``, stays ignored.

    Args:
      tell: is called with the signal when it comes, wherever the main thread is.

    Yields:
      A function that raises `Interrupted` once a signal has come.

    Raises:
      ValueError: outside of the main thread, where Python takes no signals.

    Example:
      >>> import signal
      >>> from sgdat_jax.training import interruption
      >>> with interruption.until_signal() as check:
      ...     check()
      ...     signal.raise_signal(signal.SIGTERM)
      ...     try:
      ...         check()
      ...     except interruption.Interrupted as interrupted:
      ...         print(interrupted)
      SIGTERM
    """
    came: list[signal.Signals] = []

    def remember(number: int, frame: types.FrameType | None) -> None:
        came.append(signal.Signals(number))
        restore()
        if came[0].name == _REPEATED:
            signal.signal(number, signal.SIG_IGN)
        tell(came[0])

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def check() -> None:
        if came:
            raise Interrupted(came[0].name)

    before = {
        number: signal.signal(number, remember)
        for name in _NAMES
        if (number := getattr(signal, name, None)) and not is_ignored(number)
    }
    try:
        yield check
    finally:
        restore()


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Raises KeyboardInterrupt at the end of the block if one was lost within it.

    Python raises it wherever the main thread is. Within a callback that a library calls
    from C it is dropped; Python's message about that is held back. Some libraries turn
    it into an error of theirs while they are imported.

    Example:
      >>> import contextlib, signal
      >>> from sgdat_jax.training import interruption
      >>> try:
      ...     with interruption.noticed():
      ...         with contextlib.suppress(KeyboardInterrupt):
      ...             signal.raise_signal(signal.SIGINT)
      ... except KeyboardInterrupt:
      ...     print("not lost")
      not lost
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or is_ignored(signal.SIGINT):
        yield
        return
    came = False

    def remember(number: int, frame: types.FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    def tell(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            hook(dropped)

    before, hook = signal.signal(signal.SIGINT, remember), sys.unraisablehook
    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        if came:  # whatever else was raised
            raise KeyboardInterrupt
