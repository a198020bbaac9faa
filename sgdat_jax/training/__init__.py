"""One network trained: takes networks, optimizers and data sets, and knows no names.

`fit` is the way in from Python. Its parts are loaded when they are first used: the
command's help needs the settings alone.
"""

from typing import TYPE_CHECKING

from sgdat_jax import names

if TYPE_CHECKING:
    from sgdat_jax.training.fitting import FitConfig as FitConfig
    from sgdat_jax.training.fitting import Fitted as Fitted
    from sgdat_jax.training.fitting import fit as fit
    from sgdat_jax.training.loop import Watcher as Watcher
    from sgdat_jax.training.settings import Settings as Settings

# Modules that have moved are still found here.
__getattr__ = names.lazily(
    __name__,
    {
        "FitConfig": f"{__name__}.fitting:FitConfig",
        "Fitted": f"{__name__}.fitting:Fitted",
        "Settings": f"{__name__}.settings:Settings",
        "Watcher": f"{__name__}.loop:Watcher",
        "fit": f"{__name__}.fitting:fit",
        "formats": "sgdat_jax.run_folder.formats",
        "run_folder": "sgdat_jax.run_folder",
    }
    | {
        name: f"{__name__}.{room}.{name}"
        for room, modules in {
            "devices": "agreement gathering hosts parallel splits",
            "metrics": "diagnostics records results",
        }.items()
        for name in modules.split()
    },
)
