"""Settings of the whole test run; those of the environment come before jax."""

import gc
import os
import pathlib
import tempfile

_DEVICES = "--xla_force_host_platform_device_count=8"  # for the tests of sharding
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time goes into compiling, often the same programs in several processes.
_CACHE = pathlib.Path(tempfile.gettempdir(), f"sgdat_jax-tests-{os.getuid()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

# Programs that need PyTorch, and a plug-in, which would add to the tables at once.
collect_ignore = [
    "golden/record_restarts.py",
    "plugin.py",
    "inference/published_torch.py",
]

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collects no garbage while tests are collected: a fifth of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def without_cache():
    """Compiles each time: to read a program for a TPU from the cache would need one."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
