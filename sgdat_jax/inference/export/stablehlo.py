"""StableHLO by `jax.export`: for any JAX, on CPUs, GPUs and TPUs, for any batch size.

A file is what `jax.export.Exported.serialize` returns; no pickle. Weights are packed in
it, and `jax` alone runs it::

    import pathlib
    import jax

    content = pathlib.Path("net.stablehlo").read_bytes()
    classify = jax.jit(jax.export.deserialize(bytearray(content)).call)
"""

import pathlib

import jax
import numpy as np

from sgdat_jax.inference.export import networks

PLATFORMS = ("cpu", "cuda", "tpu")


def runs_here(options: networks.Options) -> bool:
    """Returns whether this machine can run a file."""
    del options
    return True


def content(network: networks.Network, options: networks.Options) -> bytes:
    """Returns the content of a file.

    Raises:
      ValueError: if flatbuffers is missing.
    """
    del options
    networks.require("flatbuffers", "flatbuffers")  # by jax.export
    traced = jax.jit(lambda inputs: network.function.plain(inputs))
    exported = jax.export.export(traced, platforms=PLATFORMS)
    return bytes(exported(network.any_inputs()).serialize())


def run(
    file: pathlib.Path, network: networks.Network, options: networks.Options
) -> networks.Run:
    """Returns the function of a file."""
    del network, options
    networks.require("flatbuffers", "flatbuffers")
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    call = jax.jit(exported.call)
    return lambda inputs: np.asarray(call(inputs))
