"""Networks from the weights of the published PyTorch code."""

import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from sgdat_jax import layers
from sgdat_jax.inference import weight_files
from sgdat_jax.inference.export import networks, torch_names
from sgdat_jax.models import specs


def from_torch(source: str | pathlib.Path | Mapping[str, Any]) -> nnx.Module:
    """Returns a network with the weights of a PyTorch state_dict.

    It takes the networks of https://github.com/gushan/SGDAT: BinaryNet and the
    ResNet-18 of three stages, of any width, classes and image size. Kernels are brought
    into the order of Flax, those of dense layers behind a flattened map included, and
    binary ones become signs. Logits are those in front of the published log-softmax.

    Args:
      source: a file of ``torch.save`` (such as ``.pth``), which PyTorch reads
        with ``weights_only=True``, a safetensors file, or a mapping of names to tensors
        or arrays. A checkpoint's ``"state_dict"`` is found, and a ``module.`` before
        names is left out.

    Returns:
      A network for inference; it has no optimizer state.

    Raises:
      ValueError: if the file cannot be read, is of another network, or has keys that do
        not fit; the message names them.
      TypeError: if it is a whole PyTorch module.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax import inference
      >>> inference.from_torch({"fc1.weight": np.ones((10, 784), np.float32)})
      Traceback (most recent call last):
        ...
      ValueError: the state_dict is not of the published BinaryNet or ResNet-18 ...
    """
    return read(source)[1]


def read(source: str | pathlib.Path | Mapping[str, Any]) -> tuple[specs.Spec, Any]:
    """Returns what builds the network of a state_dict, and the network."""
    if hasattr(source, "state_dict"):
        raise TypeError("`source` is a whole module; pass its state_dict().")
    if not isinstance(source, Mapping):
        source = _load(pathlib.Path(source))
    arrays = _arrays(source)
    spec = torch_names.spec_of({name: array.shape for name, array in arrays.items()})
    try:
        shapes = spec.shapes()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state_dict fits no network: {error}") from None
    graph, *states = nnx.split(shapes, nnx.Param, ...)
    problems: list[str] = []
    left = set(arrays) - {name for name, _ in torch_names.unused(spec)}

    def take(path: Any, like: Any) -> np.ndarray:
        name = weight_files.name_of(path)
        key = torch_names.key_of(spec, name)
        left.discard(key)
        if key not in arrays:
            problems.append(f"{key} is missing")
            return np.zeros(like.shape, like.dtype)
        array = torch_names.to_ours(spec, name, arrays[key])
        if array.shape != like.shape:
            problems.append(f"{key} has the shape {arrays[key].shape}")
        elif not np.isfinite(array).all():
            problems.append(f"{key} has values that are not finite")
        return array.astype(like.dtype)

    filled = [jax.tree.map_with_path(take, state) for state in states]
    problems += [f"{key} is unknown" for key in sorted(left)]
    if problems:
        raise ValueError(
            f"the state_dict does not fit {spec.model}: {'; '.join(problems)}."
        )
    model: Any = nnx.merge(graph, *filled)
    for _, variable in nnx.to_flat_state(nnx.state(model, layers.BinaryParam)):
        signs = np.where(np.asarray(variable[...]) >= 0, 1, -1)
        variable.set_value(signs.astype(np.float32))
    model.eval()
    return spec, model


def _load(file: pathlib.Path) -> Mapping[str, Any]:
    """Reads a file without running code of it."""
    try:
        if file.suffix == ".safetensors":
            safetensors = networks.require("safetensors.numpy", "safetensors")
            return safetensors.load_file(file)
        torch = networks.require("torch", "torch", extra="bench")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except pickle.UnpicklingError:
        raise ValueError(
            f"{file} cannot be read as a state_dict: it is damaged or holds more than "
            "tensors, and no code of a file is run. In PyTorch save the weights alone: "
            "torch.save(net.state_dict(), path)."
        ) from None
    except Exception as error:  # of many kinds, by what is wrong with the file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} cannot be read as a state_dict: {reason}") from None
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} must hold a state_dict, got {type(content)}.")
    return content


def _arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the entries of a state_dict as arrays of floats by their names."""
    arrays = {}
    for name, value in state_dict.items():
        if hasattr(value, "detach"):
            value = value.detach().cpu().float().numpy()
        arrays[str(name).removeprefix("module.")] = np.asarray(value)
    return arrays
