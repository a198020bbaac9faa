"""Modules of a user that add to the tables of names."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Iterable, Iterator

# Those imported so far, as they were named.
_loaded: set[str] = set()


def load(names: Iterable[str]) -> None:
    """Imports plug-ins, each once.

    Args:
      names: of modules, looked for in the current folder too, or paths of files of
        Python, which end in ``.py``.

    Raises:
      ValueError: if one cannot be imported; the message has the line that failed.
    """
    for name in names:
        if name in _loaded:
            continue
        try:
            if name.endswith(".py"):
                _run_file(pathlib.Path(name))
            else:
                with _current_folder():
                    importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a plug-in may raise anything
            raise ValueError(
                f"the plug-in {name} cannot be imported: {type(error).__name__}: "
                f"{error}{_line(error)}."
            ) from error
        _loaded.add(name)


def missing(names: Iterable[str]) -> list[str]:
    """Returns which plug-ins have not been imported."""
    return [name for name in names if name not in _loaded]


def _run_file(path: pathlib.Path) -> None:
    # Files of one name in two folders are two modules.
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:8]
    name = f"{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Lets modules of the current folder be found, after all others."""
    folder = os.getcwd()
    sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _line(error: BaseException) -> str:
    """Returns where in a plug-in an error arose, if it is not Python's own."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    if last.filename.startswith("<frozen") or last.filename == __file__:
        return ""
    return f" ({last.filename}, line {last.lineno})"
