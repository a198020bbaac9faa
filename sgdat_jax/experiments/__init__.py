"""Runs described by names: configs, tables of names, recipes, comparisons, sweeps.

The tables are dictionaries to which anybody may add, in a module that the command
imports with ``--plugin``, or by entry points of the groups ``sgdat_jax.optimizers``,
``sgdat_jax.networks``, ``sgdat_jax.signs``, ``sgdat_jax.datasets``,
``sgdat_jax.schedules``, ``sgdat_jax.real_optimizers`` and ``sgdat_jax.methods``.

Example:
  >>> import optax
  >>> import sgdat_jax as sj
  >>> from sgdat_jax import experiments
  >>> def momentum_sgdat(learning_rate=1e-4, threshold=1e-7, *, momentum=0.5):
  ...     return sj.sgdat(learning_rate, threshold, momentum=momentum)
  >>> experiments.OPTIMIZERS["momentum_sgdat"] = momentum_sgdat
  >>> experiments.SCHEDULES["half"] = lambda value, steps: (
  ...     optax.piecewise_constant_schedule(value, {steps // 2: 0.1})
  ... )
"""

from sgdat_jax.data.sources import DATASETS as DATASETS
from sgdat_jax.experiments.methods import METHODS as METHODS
from sgdat_jax.experiments.methods import Method as Method
from sgdat_jax.experiments.registry import OPTIMIZERS as OPTIMIZERS
from sgdat_jax.experiments.registry import REAL_OPTIMIZERS as REAL_OPTIMIZERS
from sgdat_jax.experiments.registry import SCHEDULES as SCHEDULES
from sgdat_jax.names import NETWORKS as NETWORKS
from sgdat_jax.names import SIGNS as SIGNS
