"""Optimizers of binary weights, as Optax gradient transformations."""

from sgdat_jax.optimizers.binary import flip_counts as flip_counts
from sgdat_jax.optimizers.binary import flip_rule as flip_rule
from sgdat_jax.optimizers.binary import latent_weights as latent_weights
from sgdat_jax.optimizers.binary import thresholds as thresholds
from sgdat_jax.optimizers.boat import BoatState as BoatState
from sgdat_jax.optimizers.boat import boat as boat
from sgdat_jax.optimizers.bop import BopState as BopState
from sgdat_jax.optimizers.bop import bop as bop
from sgdat_jax.optimizers.bop import bop2nd_order as bop2nd_order
from sgdat_jax.optimizers.compact import CompactState as CompactState
from sgdat_jax.optimizers.diode import DiodeState as DiodeState
from sgdat_jax.optimizers.diode import diode as diode
from sgdat_jax.optimizers.flips import FLIP_BINS as FLIP_BINS
from sgdat_jax.optimizers.flips import FlipRatio as FlipRatio
from sgdat_jax.optimizers.flips import flip_histogram as flip_histogram
from sgdat_jax.optimizers.flips import flip_ratio as flip_ratio
from sgdat_jax.optimizers.flips import oscillating_ratio as oscillating_ratio
from sgdat_jax.optimizers.flips import silent_ratio as silent_ratio
from sgdat_jax.optimizers.flips import threshold_margins as threshold_margins
from sgdat_jax.optimizers.latent import LatentState as LatentState
from sgdat_jax.optimizers.latent import latent as latent
from sgdat_jax.optimizers.latent import sgdt as sgdt
from sgdat_jax.optimizers.parameters.invariant import check_binary as check_binary
from sgdat_jax.optimizers.parameters.partition import (
    partition_binary as partition_binary,
)
from sgdat_jax.optimizers.parameters.paths import layers_of as layers_of
from sgdat_jax.optimizers.parameters.paths import select_binary as select_binary
from sgdat_jax.optimizers.prob_bop import ProbBopState as ProbBopState
from sgdat_jax.optimizers.prob_bop import prob_bop as prob_bop
from sgdat_jax.optimizers.restart import RestartState as RestartState
from sgdat_jax.optimizers.restart import restart_every as restart_every
from sgdat_jax.optimizers.sgdat import SgdatState as SgdatState
from sgdat_jax.optimizers.sgdat import sgdat as sgdat
