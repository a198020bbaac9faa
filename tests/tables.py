"""The open tables of names, to which plug-ins add."""

import contextlib
import sys
from collections.abc import Iterator

from sgdat_jax import experiments
from sgdat_jax.experiments import plugins

_NAMES = (
    "DATASETS",
    "METHODS",
    "NETWORKS",
    "OPTIMIZERS",
    "REAL_OPTIMIZERS",
    "SCHEDULES",
    "SIGNS",
)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Leaves the tables of the process to other tests as they were."""
    tables = [getattr(experiments, name) for name in _NAMES]
    before = [dict(table) for table in tables]
    loaded = set(plugins._loaded)
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
        for name in plugins._loaded - loaded:
            sys.modules.pop(name, None)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
