"""Settings of the whole test run; those of the environment come before jax."""

import gc
import os
import pathlib
import shutil
import signal
import tempfile

_DEVICES = "--xla_force_host_platform_device_count=8"  # for the tests of sharding
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time goes into compiling, often the same programs in several processes.
# XLA compiles for the cores at hand, and the key of a program in the cache has not how
# many there were.
_CORES = len(getattr(os, "sched_getaffinity", lambda _: [])(0))
_CACHE = pathlib.Path(tempfile.gettempdir(), f"sgdat_jax-tests-{os.getuid()}-{_CORES}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
# To write and read what takes less to compile takes as long.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

# In the background of a script it is ignored, and by what tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

import compiling  # noqa: E402

# Programs that need PyTorch, and a plug-in, which would add to the tables at once.
collect_ignore = [
    "golden/record_restarts.py",
    "plugin.py",
    "inference/published_torch.py",
]

jax.config.update("jax_numpy_rank_promotion", "raise")

_TESTS = pathlib.Path(__file__).parent
# Of pytest-xdist, which need not be there; what the command line says goes before.
_PARALLEL = {
    "numprocesses": (None, "auto"),
    "maxprocesses": (None, 4),
    "dist": ("no", "loadfile"),  # tests of a file share what they prepare
    "loadscopereorder": (True, False),  # the slow tests of few would come last
}


def pytest_addoption(parser):
    """Adds the option of ``.ci/tiers``."""
    said = "compile all programs as users do, where tests would have it quickly, too"
    parser.addoption("--as-users", action="store_true", help=said)


def pytest_configure(config):
    """Heeds that option."""
    compiling.always_as_users = config.option.as_users


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Runs tests on all cores, unless it is told otherwise."""
    if not config.pluginmanager.has_plugin("xdist") or hasattr(config, "workerinput"):
        return  # the second is so in the processes that this one starts
    for name, (untold, value) in _PARALLEL.items():
        if getattr(config.option, name) == untold:
            setattr(config.option, name, value)


def pytest_ignore_collect(collection_path, config):
    """Spares the quick tests the import of what they leave out."""
    is_left_out = "not whole" in config.option.markexpr
    return True if collection_path == _TESTS / "whole" and is_left_out else None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Leaves what lives until the end to no collection of garbage: a tenth of all."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _compiled_as_wanted(request):
    """Goes on as the file before was compiled, or changes that; docstrings quickly."""
    marks = request.node.iter_markers("usefixtures")
    is_quick = any("compiled_quickly" in mark.args for mark in marks)
    is_quick |= _TESTS not in request.path.parents
    compiling.compile_quickly(is_quick)


@pytest.fixture(scope="module")
def compiled_quickly():
    """For files of tests that ask neither for the bits of users nor for speed."""


@pytest.fixture
def without_drawing(monkeypatch):
    """Leaves the pictures of runs and reports empty: to draw them takes the longest."""
    empty = {".png": b"", ".svg": b""}
    monkeypatch.setattr("sgdat_jax.report.figures.drawn", lambda fig: empty)


@pytest.fixture
def eight_devices():
    """Skips where the eight that `XLA_FLAGS` asks for are not there, as on a GPU."""
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")


@pytest.fixture(scope="module")
def kept_tables():
    """Leaves the tables of the process to other tests as they were."""
    import tables

    with tables.kept():
        yield


@pytest.fixture
def plugin_folder(tmp_path, monkeypatch):
    """A working directory with the plug-in of tests, as `my_bnn.py`."""
    shutil.copy(_TESTS / "plugin.py", tmp_path / "my_bnn.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def without_cache():
    """Compiles each time: to read a program for a TPU from the cache would need one."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
