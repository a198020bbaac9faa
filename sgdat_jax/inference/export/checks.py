"""Whether an exported file predicts what the network does."""

from typing import Any

import jax
import numpy as np

from sgdat_jax.data import augment
from sgdat_jax.inference import folding, function, weight_files
from sgdat_jax.inference.export import networks

# Real-valued layers sum in another order in each program. With sums of some hundred
# terms that moves a result by less than this share of the terms.
_NOISE = 2.0**-18
_DRAWS = 4


def compare(
    network: networks.Network, inputs: np.ndarray, logits: np.ndarray
) -> dict[str, Any]:
    """Compares classes of a file with those of the network, and says what was found.

    The sign of a sum near zero is a matter of rounding, and one sign may change the
    class. So a class may differ where the network itself predicts another one as soon
    as noise of the size of rounding is added to its inputs.

    Args:
      network: what was exported.
      inputs: of both.
      logits: of the file.

    Raises:
      ValueError: if a class differs otherwise.
    """
    expected = np.asarray(network.function(inputs))
    if logits.shape != expected.shape:
        raise ValueError(
            f"the file gives logits of shape {logits.shape}, the network "
            f"{expected.shape}; nothing is written."
        )
    classes = expected.argmax(-1)
    differ = logits.argmax(-1) != classes
    apart = np.abs(logits - expected).max(-1)
    if differ.any():
        wrong = differ & ~_decided_by_rounding(network, inputs, classes)
        if wrong.any() or not np.isfinite(logits).all():
            raise ValueError(
                f"the file predicts another class for {wrong.sum()} of {len(inputs)} "
                f"images (logits up to {apart[wrong].max():.2g} apart); nothing is "
                "written."
            )
    return {
        "classes": "equal",
        "except_where_rounding_decides": int(differ.sum()),
        "logits_apart": {
            "median": float(np.median(apart)),
            "largest": float(apart.max()),
        },
    }


def _decided_by_rounding(
    network: networks.Network, inputs: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Returns for which inputs noise changes the class."""
    noisy = _with_noise(network)
    changes = np.zeros(len(inputs), bool)
    for seed in range(_DRAWS if noisy else 0):
        noise = _NOISE * np.random.default_rng(seed).normal(size=inputs.shape)
        logits = noisy(inputs, (1 + noise).astype(np.float32))
        changes |= np.asarray(logits).argmax(-1) != classes
    return changes


def _with_noise(network: networks.Network) -> Any:
    """Returns the function of inputs and of what to multiply them with; None: none."""
    if network.file is None:
        if np.issubdtype(network.dtype, np.integer):
            return None
        return lambda inputs, noise: network.function(inputs * noise)
    about = weight_files.read_about(network.file)

    def classify(model: Any, operands: Any) -> jax.Array:
        images, noise = operands
        return model(augment.normalize(images, about.mean, about.std) * noise)

    model = folding.fold(weight_files.read_model(network.file))
    run = jax.jit(function.to_function(model, classify).plain)
    return lambda images, noise: run((images, noise))
