"""Weights that a run starts from, out of a file of another run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sgdat_jax import optimizers
from sgdat_jax.inference import classifier, weight_files
from sgdat_jax.models import specs

_NAMED = 3  # arrays that an error names, at most


class Weights(NamedTuple):
    """The weights of a file, as far as a network takes them."""

    values: Mapping[str, np.ndarray]  # parameters and averages, by their names in files
    fresh: tuple[str, ...]  # names of what the network keeps of its own start
    real: tuple[str, ...]  # names of binary weights that the file has as real numbers
    about: weight_files.About


def read(file: str, spec: specs.Spec) -> Weights:
    """Reads the weights that a network starts from.

    Layers that end in the classes start anew where the number of classes differs.

    Args:
      file: of weights, or the folder of a run.
      spec: what builds the network.

    Raises:
      ValueError: if it is no whole file of weights, or does not fit the network.
    """
    path = classifier.find_file(file)
    about, arrays = weight_files.read_about(path), weight_files.read_arrays(path)
    state = nnx.state(spec.shapes())
    binary = _binary_names(nnx.filter_state(state, nnx.Param))
    values, fresh, real, misfits = {}, [], [], []
    for name, like in weight_files.by_path(state).items():
        found = arrays.get(name)
        if weight_files.is_random_key(like):
            continue
        if found is not None and found.shape == like.shape:
            values[name] = found.astype(like.dtype)
            if name in binary and not (np.abs(found) == 1).all():
                real.append(name)
        elif found is not None and _is_head(
            found.shape, like.shape, about.num_classes, spec.num_classes
        ):
            fresh.append(name)
        else:
            have = "missing" if found is None else f"of shape {found.shape}"
            misfits.append(f"{name} is {have}, not of {tuple(like.shape)}")
    if misfits:
        shown = "; ".join(misfits[:_NAMED]) + "; ..." * (len(misfits) > _NAMED)
        raise ValueError(
            "init must be weights of the same network, but for its classes, got "
            f"{path}{_of(about.spec)} for {_described(spec)}: {shown}."
        )
    return Weights(values, tuple(fresh), tuple(real), about)


def _is_head(
    found: tuple[int, ...], wanted: tuple[int, ...], old: int, new: int
) -> bool:
    """Returns whether an array differs from another only in its number of classes."""
    return (
        old != new
        and found[:-1] == wanted[:-1]
        and found[-1:] == (old,)
        and wanted[-1:] == (new,)
    )


def _described(spec: specs.Spec) -> str:
    size = "x".join(map(str, spec.input_shape))
    return f"{spec.model}, width {spec.width:g}, {size}, {spec.num_classes} classes"


def _of(spec: specs.Spec | None) -> str:
    return "" if spec is None else f" of {_described(spec)}"


def notes(
    file: str, found: Weights, spec: specs.Spec, scale: float | None
) -> list[str]:
    """Returns what users should hear of the weights at start.

    Args:
      file: as in `read`, which has returned ``found`` for ``spec``.
      found: the weights.
      spec: what builds the network.
      scale: of the weights at which latent weights start; None: they start at 0.
    """
    told = [f"weights start from {classifier.find(file)} (--init)"]
    if found.fresh:
        layers = dict.fromkeys(name.rpartition("/")[0] for name in found.fresh)
        told[0] += (
            f"; {', '.join(layers)} start anew for {spec.num_classes} classes instead "
            f"of {found.about.num_classes}"
        )
    if found.real:
        told.append(
            f"{len(found.real)} kernels of the file are real-valued and become signs"
        )
    params = nnx.state(spec.shapes(), nnx.Param)
    if not jax.tree.leaves(optimizers.select_binary(params, params)):
        return told
    if scale is None:
        told.append(
            "latent weights start at 0, so the first gradients may flip many weights"
        )
    else:
        told.append(
            f"latent weights start at {scale:g} times the file's (--init-scale): the "
            "smaller, the sooner they flip"
        )
    return told


def put(variables: nnx.State, values: Mapping[str, Any], scale: float) -> nnx.State:
    """Returns variables of a network with values in the place of those of their names.

    Args:
      variables: parameters and averages.
      values: by the names that they have in files of weights.
      scale: factor of the binary ones.
    """
    binary = _binary_names(nnx.filter_state(variables, nnx.Param))

    def take(path: Any, leaf: jax.Array) -> jax.Array:
        name = weight_files.name_of(path)
        if name not in values:
            return scale * leaf if name in binary else leaf
        value = jnp.asarray(values[name])
        return scale * value if name in binary else value

    return jax.tree.map_with_path(take, variables)


def signed(params: nnx.State) -> nnx.State:
    """Returns parameters with signs in the place of real-valued binary weights."""
    binary = _binary_names(params)

    def sign(path: Any, leaf: jax.Array) -> jax.Array:
        if weight_files.name_of(path) not in binary:
            return leaf
        return jnp.where(leaf >= 0, 1, -1).astype(leaf.dtype)

    return jax.tree.map_with_path(sign, params)


def _binary_names(params: nnx.State) -> set[str]:
    return set(weight_files.by_path(optimizers.select_binary(params, params)))
