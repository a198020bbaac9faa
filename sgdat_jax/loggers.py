"""What libraries log, and what they do to the user's logging."""

import contextlib
import logging
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Takes handlers off the root logger again that an import in the block adds.

    With one there, a later `logging.basicConfig` of the user would do nothing.

    Example:
      >>> import logging
      >>> from sgdat_jax import loggers
      >>> before = logging.root.handlers.copy()
      >>> with loggers.kept():
      ...     logging.root.addHandler(logging.StreamHandler())
      >>> logging.root.handlers == before
      True
    """
    before = logging.root.handlers.copy()
    try:
        yield
    finally:
        for handler in set(logging.root.handlers).difference(before):
            logging.root.removeHandler(handler)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences libraries in the block where our own errors say the same.

    That is what absl logs, and what threads of TensorStore print of callbacks that come
    too late when a file could not be written.
    """
    logger, hook = logging.getLogger("absl"), sys.excepthook
    level = logger.level

    def tell(
        kind: type[BaseException],
        error: BaseException,
        trace: types.TracebackType | None,
    ) -> None:
        if not (kind is RuntimeError and str(error) == "Event loop is closed"):
            hook(kind, error, trace)

    logger.setLevel(logging.CRITICAL)
    sys.excepthook = tell
    try:
        yield
    finally:
        sys.excepthook = hook
        logger.setLevel(level)
