"""Settings of the whole test run; those of the environment come before jax."""

import os

_DEVICES = "--xla_force_host_platform_device_count=8"  # for the tests of sharding
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
