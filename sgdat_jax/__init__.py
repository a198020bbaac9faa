# mypy: disable-error-code=no-redef
# Functions that have the names of their modules are no second definitions.
"""Training of binary neural networks in JAX.

SGDAT and its companions as Optax gradient transformations, sign functions with
surrogate gradients, Flax layers and networks. The training program and its command
``sgdat-jax`` are not imported here; they need the extra ``train``.

Each name is imported when it is first used, so that the command can print a help text
without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgdat_jax import models as models
    from sgdat_jax.cpu import compiler_options as compiler_options
    from sgdat_jax.cpu import keep_freed_memory as keep_freed_memory
    from sgdat_jax.layers import BinaryConv as BinaryConv
    from sgdat_jax.layers import BinaryConvTranspose as BinaryConvTranspose
    from sgdat_jax.layers import BinaryLayer as BinaryLayer
    from sgdat_jax.layers import BinaryLinear as BinaryLinear
    from sgdat_jax.layers import BinaryParam as BinaryParam
    from sgdat_jax.layers import kernel_sign as kernel_sign
    from sgdat_jax.lookups import look_up_gradients as look_up_gradients
    from sgdat_jax.optimizers import BoatState as BoatState
    from sgdat_jax.optimizers import BopState as BopState
    from sgdat_jax.optimizers import CompactState as CompactState
    from sgdat_jax.optimizers import DiodeState as DiodeState
    from sgdat_jax.optimizers import FlipRatio as FlipRatio
    from sgdat_jax.optimizers import LatentState as LatentState
    from sgdat_jax.optimizers import ProbBopState as ProbBopState
    from sgdat_jax.optimizers import SgdatState as SgdatState
    from sgdat_jax.optimizers import boat as boat
    from sgdat_jax.optimizers import bop as bop
    from sgdat_jax.optimizers import bop2nd_order as bop2nd_order
    from sgdat_jax.optimizers import check_binary as check_binary
    from sgdat_jax.optimizers import diode as diode
    from sgdat_jax.optimizers import flip_counts as flip_counts
    from sgdat_jax.optimizers import flip_histogram as flip_histogram
    from sgdat_jax.optimizers import flip_ratio as flip_ratio
    from sgdat_jax.optimizers import flip_rule as flip_rule
    from sgdat_jax.optimizers import latent as latent
    from sgdat_jax.optimizers import latent_weights as latent_weights
    from sgdat_jax.optimizers import layers_of as layers_of
    from sgdat_jax.optimizers import oscillating_ratio as oscillating_ratio
    from sgdat_jax.optimizers import partition_binary as partition_binary
    from sgdat_jax.optimizers import prob_bop as prob_bop
    from sgdat_jax.optimizers import restart_every as restart_every
    from sgdat_jax.optimizers import select_binary as select_binary
    from sgdat_jax.optimizers import sgdat as sgdat
    from sgdat_jax.optimizers import sgdt as sgdt
    from sgdat_jax.optimizers import silent_ratio as silent_ratio
    from sgdat_jax.optimizers import threshold_margins as threshold_margins
    from sgdat_jax.optimizers import thresholds as thresholds
    from sgdat_jax.signs import approx_sign as approx_sign
    from sgdat_jax.signs import dorefa as dorefa
    from sgdat_jax.signs import ede_sign as ede_sign
    from sgdat_jax.signs import ede_t as ede_t
    from sgdat_jax.signs import leaky_tanh as leaky_tanh
    from sgdat_jax.signs import magnitude_aware_sign as magnitude_aware_sign
    from sgdat_jax.signs import reste_o as reste_o
    from sgdat_jax.signs import reste_sign as reste_sign
    from sgdat_jax.signs import sign as sign
    from sgdat_jax.signs import ste_heaviside as ste_heaviside
    from sgdat_jax.signs import ste_sign as ste_sign
    from sgdat_jax.signs import ste_ternary as ste_ternary
    from sgdat_jax.signs import surrogate as surrogate
    from sgdat_jax.signs import swish_sign as swish_sign
    from sgdat_jax.summary import LayerSummary as LayerSummary
    from sgdat_jax.summary import summarize as summarize

__version__ = "0.2.0"

# The module that each public name is from, as above; modules are names themselves.
_HOMES = {
    name: home
    for home, names in {
        "": ("bits cpu layers lookups models optimizers signs summary testing"),
        "cpu": ("compiler_options keep_freed_memory"),
        "layers": (
            "BinaryConv BinaryConvTranspose BinaryLayer BinaryLinear BinaryParam "
            "kernel_sign"
        ),
        "lookups": ("look_up_gradients"),
        "optimizers": (
            "BoatState BopState CompactState DiodeState FlipRatio LatentState "
            "ProbBopState SgdatState boat bop bop2nd_order check_binary diode "
            "flip_counts flip_histogram flip_ratio flip_rule latent "
            "latent_weights layers_of oscillating_ratio partition_binary prob_bop "
            "restart_every select_binary sgdat sgdt silent_ratio "
            "threshold_margins thresholds"
        ),
        "signs": (
            "approx_sign dorefa ede_sign ede_t leaky_tanh magnitude_aware_sign "
            "reste_o reste_sign sign ste_heaviside ste_sign ste_ternary surrogate "
            "swish_sign"
        ),
        "summary": ("LayerSummary summarize"),
    }.items()
    for name in names.split()
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"{__name__}.{home or name}")
    value = globals()[name] = getattr(module, name) if home else module
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
