"""Checks that all processes of a job have the same config, versions, data and start.

Each process computes its share of every step from its own config and images. If they
differ, the weights that come out belong to no config at all.
"""

import dataclasses
import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sgdat_jax.data import dataset as dataset_lib
from sgdat_jax.data import sources
from sgdat_jax.options import HOUSEKEEPING, options_of
from sgdat_jax.training import settings, versions
from sgdat_jax.training.devices import hosts

# Settings of jax that change numbers or programs.
_JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)


def check_config(config: settings.Settings) -> None:
    """Raises `hosts.Disagreement` unless all processes train alike.

    They must have the same config, settings of jax, and versions. All call this
    together; one process alone always agrees.
    """
    if hosts.is_job():
        hosts.agree(_versions() | _settings(config))


def check_data(dataset: sources.Dataset) -> None:
    """Raises `hosts.Disagreement` unless all processes have the same images and labels.

    All call this together; one process alone always agrees.
    """
    if hosts.is_job():
        hosts.agree(dataset_lib.fingerprint(dataset))


def check_start(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `hosts.Disagreement` unless all processes start from the same weights.

    All call this together; one process alone always agrees.

    Args:
      arrays: weights of a file, by their names.
    """
    if hosts.is_job():
        digest = hashlib.sha256()
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        hosts.agree({"init": digest.hexdigest()[:16]})


def _versions() -> dict[str, Any]:
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    found |= versions.packages()
    return {f"version of {name}": version for name, version in found.items()}


def _settings(config: settings.Settings) -> dict[str, Any]:
    # When states are saved, the processes agree on as they train.
    free = options_of(type(config), HOUSEKEEPING)
    fields = dataclasses.asdict(config)
    of_jax = {name: getattr(jax.config, name, None) for name in _JAX_SETTINGS}
    return of_jax | {k: v for k, v in fields.items() if k not in free}
