"""Ending a run at a safe point when the system or the user asks for it."""

import contextlib
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

Check = Callable[[], None]  # raises Interrupted if a signal has come


class Interrupted(Exception):
    """A signal has come; its name is the message."""


def never() -> None:
    """Checks for nothing."""


@contextlib.contextmanager
def until_signal() -> Iterator[Check]:
    """Holds SIGTERM and SIGINT back until the block checks for them.

    A second signal acts at once, as it does outside of the block.

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

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def check() -> None:
        if came:
            raise Interrupted(came[0].name)

    before = {
        number: signal.signal(number, remember)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield check
    finally:
        restore()


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Raises KeyboardInterrupt at the end of the block if one was lost within it.

    Python raises it wherever the main thread is. Within a callback that a library calls
    from C it is dropped; Python's message about that is held back.

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
    if threading.current_thread() is not threading.main_thread():
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
    if came:
        raise KeyboardInterrupt
