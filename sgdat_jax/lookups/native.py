"""The compiled form of `gradients.cc`: made once for a machine, and registered."""

import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile

import jax

from sgdat_jax import cpu, files

KERNEL_GRADIENT = "sgdat_jax_kernel_gradient"
INPUT_GRADIENT = "sgdat_jax_input_gradient"

_SOURCE = pathlib.Path(__file__).with_name("gradients.cc")
_FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-w")
# What a processor needs, and the flags for it, the fastest first.
_PROCESSORS = (
    ({"avx512f", "fma"}, ("-mavx512f", "-mfma")),
    ({"avx2", "fma"}, ("-mavx2", "-mfma")),
)
_SECONDS = 120  # far more than a compiler takes
_logger = logging.getLogger(__name__)
_allowed = False


def look_up_gradients(allowed: bool = True) -> bool:
    """Has gradients of convolutions of signs be computed on a CPU by looking sums up.

    A training step of `BinaryNet` takes half of the time with AVX-512. Sums are added
    in another order than XLA's, so gradients differ in their last places; the order
    depends on shapes and the processor's vectors, not on threads. It concerns
    `BinaryConv` with two spatial axes whose operands are signs, in float32, on a single
    CPU device; other gradients are XLA's.

    The first of them needs a C++ compiler, the one named by ``CXX`` or else ``c++``,
    ``g++`` or ``clang++``, which takes some seconds. The result is kept in
    ``~/.cache/sgdat_jax``, or under ``XDG_CACHE_HOME``. Without a compiler gradients
    stay XLA's. The command ``sgdat-jax`` calls this function. In a program of your own
    call it before the first step is compiled.

    Args:
      allowed: False has XLA compute them again in what is traced from then on.
        ``SGDAT_JAX_LOOKUPS=0`` in the environment does so everywhere.

    Returns:
      Whether this machine can: Linux, an x86 processor with AVX2 or, better, AVX-512,
      and a compiler.

    Example:
      >>> import sgdat_jax as sj
      >>> can = sj.look_up_gradients()
      >>> sj.look_up_gradients(False)
      False
    """
    global _allowed
    _allowed = allowed and _can()
    return _allowed


def is_ready() -> bool:
    """Returns whether XLA knows the compiled functions; compiles them if need be."""
    return _allowed and _register()


def are_in_use() -> bool:
    """Returns whether gradients of a program traced before were looked up."""
    return _allowed and bool(_register.cache_info().currsize) and _register()


def _can() -> bool:
    return (
        os.environ.get("SGDAT_JAX_LOOKUPS") != "0"
        and platform.system() == "Linux"
        and bool(_flags())
        and bool(_compiler())
    )


def _flags() -> tuple[str, ...]:
    """Returns a compiler's flags for this machine's processor; none if it cannot."""
    able = cpu.abilities()
    fitting = [(*_FLAGS, *flags) for needed, flags in _PROCESSORS if able >= needed]
    return fitting[0] if fitting else ()


def _compiler() -> list[str]:
    """Returns the words that call a C++ compiler; none if there is none."""
    chosen = os.environ.get("CXX")
    if chosen:
        words = shlex.split(chosen)
        return words if words and shutil.which(words[0]) else []
    found = map(shutil.which, ("c++", "g++", "clang++"))
    return [path for path in found if path][:1]


@functools.cache
def _register() -> bool:
    """Returns whether it could be done; says why if not."""
    try:
        library = ctypes.CDLL(str(_compiled()))
        for name in (KERNEL_GRADIENT, INPUT_GRADIENT):
            function = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, function, platform="cpu")
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        _logger.warning(
            "Gradients are XLA's, as %s was not compiled: %s", _SOURCE, said
        )
        return False
    return True


def _compiled() -> pathlib.Path:
    """Returns the library, compiled now if this machine has not kept it."""
    command = [*_compiler(), *_flags()]
    version = subprocess.run(
        [*_compiler(), "--version"], capture_output=True, check=True, timeout=_SECONDS
    ).stdout
    known = repr([command, jax.lib.__version__]).encode() + version
    digest = hashlib.sha256(known + _SOURCE.read_bytes()).hexdigest()[:16]
    path = files.of_caches() / f"gradients-{digest}.so"
    if not files.is_file(path):
        files.make([path.parent], "XDG_CACHE_HOME")
        with tempfile.TemporaryDirectory() as folder:
            made = pathlib.Path(folder, path.name)
            subprocess.run(
                [*command, "-isystem", jax.ffi.include_dir(), "-o", made, _SOURCE],
                capture_output=True,
                check=True,
                text=True,
                timeout=_SECONDS,
            )
            with files.whole(path, "wb") as file:
                file.write(made.read_bytes())
    return path
