"""The published PyTorch networks of SGDAT: their keys, and the order of their axes.

Names and shapes are those of https://github.com/gushan/SGDAT, ``models/binarynet.py``
and ``models/resnet_binary.py``.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from sgdat_jax.models import specs

# Our names and theirs, of modules.
_BINARY_NET = {
    "conv1": "features.0",
    "norm1": "features.1",
    "conv2": "features.3",
    "norm2": "features.5",
    "conv3": "features.7",
    "norm3": "features.8",
    "conv4": "features.10",
    "norm4": "features.12",
    "conv5": "features.14",
    "norm5": "features.15",
    "conv6": "features.17",
    "norm6": "features.19",
    "dense7": "classifier.0",
    "norm7": "classifier.1",
    "dense8": "classifier.3",
    "norm8": "classifier.4",
    "dense9": "classifier.6",
    "norm9": "classifier.7",
}
_BLOCK = {
    "conv1": "conv1",
    "norm1": "bn1",
    "conv2": "conv2",
    "norm2": "bn2",
    "shortcut": "downsample.0",
    "shortcut_norm": "downsample.1",
}
_RESNET = {
    "conv1": "conv1",
    "norm1": "bn1",
    **{
        f"blocks/{index}/{ours}": f"layer{index // 2 + 1}.{index % 2}.{theirs}"
        for index in range(6)
        for ours, theirs in _BLOCK.items()
    },
    "norm2": "bn2",
    "dense": "fc",
    "norm3": "bn3",
}
_UNUSED = "layer3.1.bn2"  # made by the published ResNet-18, and left out of its forward
_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


class Family(NamedTuple):
    """A published network."""

    modules: Mapping[str, str]
    after_flatten: frozenset[str]  # our modules whose inputs are a flattened map
    map_size: Callable[[specs.Spec], tuple[int, int]]  # of that map


FAMILIES = {
    "BinaryNet": Family(
        _BINARY_NET,
        frozenset({"dense7"}),
        lambda spec: (spec.input_shape[0] // 8, spec.input_shape[1] // 8),
    ),
    "SgdatResNet18": Family(
        _RESNET,
        frozenset({"norm2", "dense"}),
        lambda spec: (-(-spec.input_shape[0] // 32), -(-spec.input_shape[1] // 32)),
    ),
}


def key_of(spec: specs.Spec, path: str) -> str:
    """Returns the key of one of our arrays.

    Args:
      spec: of the network.
      path: of the array, such as ``"conv1/kernel"``.
    """
    module, _, variable = path.rpartition("/")
    return f"{FAMILIES[spec.model].modules[module]}.{_VARIABLES[variable]}"


def to_ours(spec: specs.Spec, path: str, array: np.ndarray) -> np.ndarray:
    """Returns one of their arrays with its axes in our order.

    Kernels of convolutions are (out, in, height, width) there; what follows a flattened
    map has its inputs in the order (channels, height, width).
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    sizes = _flattened(spec, path)
    if sizes is not None:
        array = array.reshape(*array.shape[:-1], -1, *sizes)
        array = np.moveaxis(array, -3, -1)
        array = array.reshape(*array.shape[:-3], math.prod(array.shape[-3:]))
    return array.T


def to_theirs(spec: specs.Spec, path: str, array: np.ndarray) -> np.ndarray:
    """Returns one of our arrays with its axes in their order."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    array = array.T
    sizes = _flattened(spec, path)
    if sizes is not None:
        array = array.reshape(*array.shape[:-1], *sizes, -1)
        array = np.moveaxis(array, -1, -3)
        array = array.reshape(*array.shape[:-3], math.prod(array.shape[-3:]))
    return array


def _flattened(spec: specs.Spec, path: str) -> tuple[int, int] | None:
    """Returns the height and width of the map that an array takes flattened."""
    module, _, variable = path.rpartition("/")
    family = FAMILIES[spec.model]
    is_after = module in family.after_flatten
    # The bias of a dense layer is one of outputs.
    if not is_after or (variable == "bias" and module.startswith("dense")):
        return None
    return family.map_size(spec)


def unused(spec: specs.Spec) -> Iterator[tuple[str, np.ndarray]]:
    """Yields what their network has and does not use, as it starts with it."""
    shapes = spec.shapes()
    modules = FAMILIES[spec.model].modules
    theirs = {
        modules["/".join(map(str, path))]
        for path, module in nnx.iter_modules(shapes)
        if isinstance(module, nnx.BatchNorm)
    }
    if spec.model == "SgdatResNet18":
        theirs.add(_UNUSED)
        features = shapes.blocks[5].conv2.out_features
        start = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
        for name, value in start.items():
            yield f"{_UNUSED}.{name}", np.full(features, value, np.float32)
    for module in sorted(theirs):
        yield f"{module}.num_batches_tracked", np.zeros([], np.int64)


def spec_of(shapes: Mapping[str, tuple[int, ...]]) -> specs.Spec:
    """Returns what builds the network of a state_dict.

    Raises:
      ValueError: if it is of no published network.
    """
    options: dict[str, Any] = {"unbiased_variance": True}
    try:
        if "features.0.weight" in shapes:
            first, channels = shapes["features.0.weight"][:2]
            classes = shapes["classifier.6.weight"][0]
            maps = shapes["classifier.0.weight"][1] // shapes["features.17.weight"][0]
            name, size, width = "BinaryNet", 8 * math.isqrt(maps), first / 128
        elif "layer3.1.conv2.weight" in shapes:
            first, channels = shapes["conv1.weight"][:2]
            classes, flat = shapes["fc.weight"]
            maps = flat // shapes["layer3.1.conv2.weight"][0]
            name, size, width = "SgdatResNet18", 32 * math.isqrt(maps), first / 80
        else:
            raise KeyError("features.0.weight, layer3.1.conv2.weight")
        return specs.Spec(name, classes, (size, size, channels), width=width, **options)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"the state_dict is not of the published BinaryNet or ResNet-18 ({error} "
            f"not found); it has {', '.join(list(shapes)[:8])} ..."
        ) from None
