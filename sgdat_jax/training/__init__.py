"""One network trained: takes networks, optimizers and data sets, and knows no names.

`fit` is the way in from Python. Its parts are loaded when they are first used: the
command's help needs the settings alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgdat_jax.training.fitting import FitConfig as FitConfig
    from sgdat_jax.training.fitting import Fitted as Fitted
    from sgdat_jax.training.fitting import fit as fit
    from sgdat_jax.training.loop import Watcher as Watcher
    from sgdat_jax.training.settings import Settings as Settings

_HOMES = {
    "FitConfig": "fitting",
    "Fitted": "fitting",
    "Settings": "settings",
    "Watcher": "loop",
    "fit": "fitting",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
