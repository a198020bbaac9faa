"""The user's logging, which libraries change while they are imported."""

import contextlib
import logging
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
