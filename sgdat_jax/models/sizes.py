"""Which network fits images of a size."""

import math
from collections.abc import Sequence

from flax import nnx

from sgdat_jax.models import specs

# The greatest height and width that a network is meant for: its dense layers grow with
# the image. What is not here takes the mean over the image.
LARGEST = {"DigitsNet": 16, "BinaryNet": 64}
_ANY_SIZE = "BiRealResNet18"


def choose(input_shape: Sequence[int]) -> str:
    """Returns the name of a network for images of a shape.

    Args:
      input_shape: height, width and channels.

    Example:
      >>> from sgdat_jax.models import sizes
      >>> [sizes.choose((size, size, 3)) for size in (16, 17, 64, 65)]
      ['DigitsNet', 'BinaryNet', 'BinaryNet', 'BiRealResNet18']
    """
    side = max(input_shape[:2])
    return next((name for name, most in LARGEST.items() if side <= most), _ANY_SIZE)


def warning(spec: specs.Spec) -> str | None:
    """Returns what to say of a network that is not meant for images of its size.

    Raises:
      ValueError: if the network cannot be built.

    Example:
      >>> from sgdat_jax.models import sizes, specs
      >>> sizes.warning(specs.Spec("BinaryNet", 2, (32, 32, 3)))
      >>> print(sizes.warning(specs.Spec("DigitsNet", 2, (96, 96, 3))))
      DigitsNet is for images up to 16x16; at 96x96 its dense layer dense4 has 18.9 M \
weights. BiRealResNet18 does not grow with the image.
    """
    height, width, _ = spec.input_shape
    most = LARGEST.get(spec.model, max(height, width))
    if max(height, width) <= most:
        return None
    kernels = {
        "/".join(map(str, path)): getattr(module, "kernel", None)
        for path, module in nnx.iter_modules(spec.shapes())
    }
    weights = {
        name: math.prod(kernel.shape)
        for name, kernel in kernels.items()
        if kernel is not None and len(kernel.shape) == 2
    }
    largest = max(weights, key=lambda name: weights[name])
    return (
        f"{spec.model} is for images up to {most}x{most}; at {height}x{width} its "
        f"dense layer {largest} has {weights[largest] / 1e6:.1f} M weights. "
        f"{choose(spec.input_shape)} {_reason(choose(spec.input_shape))}."
    )


def _reason(name: str) -> str:
    if name in LARGEST:
        return f"is for images up to {LARGEST[name]}x{LARGEST[name]}"
    return "does not grow with the image"
