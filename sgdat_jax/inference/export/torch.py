"""Weights for the published PyTorch networks, as a safetensors file.

In PyTorch: ``net.load_state_dict(safetensors.torch.load_file(path))``. The published
BinaryNet and ResNet-18 can hold them, with all their layers binary and padded with 0.
"""

import pathlib
from typing import Any

import numpy as np
from flax import nnx

from sgdat_jax.inference import classifier, weight_files
from sgdat_jax.inference.export import networks, torch_names


def runs_here(options: networks.Options) -> bool:
    """Returns whether this machine can run a file."""
    del options
    return True


def content(network: networks.Network, options: networks.Options) -> bytes:
    """Returns the content of a file.

    Raises:
      ValueError: if safetensors is missing, or the network is no published one.
    """
    del options
    if network.file is None:
        raise ValueError(
            "torch needs a file of weights, as a function does not tell its layers."
        )
    spec = weight_files.read_about(network.file).spec
    if spec is None:
        raise ValueError(
            f"torch holds the published networks alone; {network.file} names none."
        )
    check(spec)
    model = weight_files.read_model(network.file)
    arrays = dict(torch_names.unused(spec))
    for path, array in weight_files.by_path(nnx.state(model)).items():
        theirs = torch_names.to_theirs(spec, path, np.asarray(array))
        arrays[torch_names.key_of(spec, path)] = np.ascontiguousarray(theirs)
    safetensors = networks.require("safetensors.numpy", "safetensors")
    return safetensors.save(arrays)


def check(spec: Any) -> None:
    """Raises ValueError if a network is no published one, and says why."""
    if spec.model not in torch_names.FAMILIES:
        raise ValueError(
            f"torch holds the published networks, {', '.join(torch_names.FAMILIES)}, "
            f"got {spec.model}."
        )
    choices = spec.shapes().choices
    if choices.full_precision:
        raise ValueError(
            "torch cannot hold full-precision layers, as the published networks have "
            f"none there, got {', '.join(choices.full_precision)}."
        )
    if spec.pad_value:
        raise ValueError(
            f"torch cannot hold `pad_value` {spec.pad_value:g} of "
            f"{choices.binary_layers[0]}: the published networks pad with 0."
        )


def run(
    file: pathlib.Path, network: networks.Network, options: networks.Options
) -> networks.Run:
    """Returns the function of a file, which takes the way back into our network."""
    del options
    from sgdat_jax.inference import folding, torch_weights

    assert network.file is not None
    about = weight_files.read_about(network.file)
    model = torch_weights.from_torch(file.rename(file.with_suffix(".safetensors")))
    classify = classifier.of_images(folding.fold(model), about)
    return lambda inputs: np.asarray(classify(inputs))
