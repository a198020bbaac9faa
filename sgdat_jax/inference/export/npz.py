"""Our own file of weights, for programs that read it themselves.

``docs/weight-files.md`` describes it, with a reader in plain NumPy.
"""

import pathlib

import numpy as np

from sgdat_jax.inference import classifier
from sgdat_jax.inference.export import networks


def runs_here(options: networks.Options) -> bool:
    """Returns whether this machine can run a file."""
    del options
    return True


def content(network: networks.Network, options: networks.Options) -> bytes:
    """Returns the content of a file.

    Raises:
      ValueError: if the network is a function.
    """
    del options
    if network.file is None:
        raise ValueError(
            "npz needs a file of weights, as a function does not tell its layers; "
            "export it to stablehlo, iree or onnx."
        )
    return network.file.read_bytes()


def run(
    file: pathlib.Path, network: networks.Network, options: networks.Options
) -> networks.Run:
    """Returns the function of a file."""
    del network, options
    classify = classifier.load(file)
    return lambda inputs: np.asarray(classify(inputs))
