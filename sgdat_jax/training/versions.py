"""The versions of what a run is computed with."""

import importlib.metadata

import sgdat_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def packages() -> dict[str, str]:
    """Returns the version of each package that changes what a run computes."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"sgdat-jax": sgdat_jax.__version__} | versions
