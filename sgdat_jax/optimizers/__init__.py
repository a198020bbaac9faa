"""Optimizers of binary weights, as Optax gradient transformations."""

from sgdat_jax.optimizers.binary import flip_counts as flip_counts
from sgdat_jax.optimizers.binary import latent_weights as latent_weights
from sgdat_jax.optimizers.binary import thresholds as thresholds
from sgdat_jax.optimizers.flips import FlipRatio as FlipRatio
from sgdat_jax.optimizers.flips import flip_ratio as flip_ratio
from sgdat_jax.optimizers.flips import oscillating_ratio as oscillating_ratio
from sgdat_jax.optimizers.flips import silent_ratio as silent_ratio
from sgdat_jax.optimizers.flips import threshold_margins as threshold_margins
from sgdat_jax.optimizers.partition import layers_of as layers_of
from sgdat_jax.optimizers.partition import partition_binary as partition_binary
from sgdat_jax.optimizers.partition import select_binary as select_binary
from sgdat_jax.optimizers.sgdat import SgdatState as SgdatState
from sgdat_jax.optimizers.sgdat import sgdat as sgdat
