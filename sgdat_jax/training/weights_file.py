"""Files of trained weights alone, for deployment: binary weights as single bits.

A file is an uncompressed NumPy archive, so it has a checksum of each array. Its entry
``about`` is JSON in bytes: the format, the run's config, the shapes of the packed
weights, how images are normalized and what the weights reach. Every other entry is an
array, named by its path in the model: uint8 with eight weights in a byte, the first in
the lowest bit and 1 for +1, if ``about`` has a shape for it, and as it is otherwise.
"""

import dataclasses
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sgdat_jax import files, optimizers
from sgdat_jax.training import config as config_lib
from sgdat_jax.training import run_folder

_ABOUT = "about"
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    zipfile.BadZipFile,
)


class About(NamedTuple):
    """What weights are of, and of which images they make something."""

    config: config_lib.TrainConfig  # of their run
    input_shape: tuple[int, ...]  # height, width and channels of an image
    num_classes: int
    mean: tuple[float, ...]  # of images in [0, 1], one per channel
    std: tuple[float, ...]


def write(
    file: pathlib.Path,
    config: config_lib.TrainConfig,
    params: Any,
    stats: Any,
    details: Mapping[str, Any],
) -> None:
    """Writes weights, or nothing if that fails.

    Args:
      file: of the suffix ``.npz``.
      config: of their run.
      params: parameters; those of binary layers that are -1 and +1 become bits.
      stats: running averages of normalization.
      details: the rest of `About`, and more to say, such as an accuracy; as in JSON.
    """
    binary = _by_path(optimizers.select_binary(params, params)).keys()
    shapes: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for path, leaf in (_by_path(params) | _by_path(stats)).items():
        array = np.asarray(leaf)
        if path in binary and (np.abs(array) == 1).all():
            shapes[path] = array.shape
            array = np.packbits(array > 0, bitorder="little")
        arrays[path] = array
    about = {
        "format": run_folder.FORMAT,
        "config": dataclasses.asdict(config),
        "packed": shapes,
        **details,
    }
    arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with files.whole(file, "wb") as data:
        np.savez(data, **arrays)


def read_config(file: pathlib.Path) -> config_lib.TrainConfig:
    """Reads the config of the run that the weights are of.

    Raises:
      ValueError: if the file is none of weights, or damaged.
    """
    about = _read(file)[0]
    return run_folder.config_of(file, about.get("config"), about.get("format"))


def read_about(file: pathlib.Path) -> About:
    """Reads what the weights are of.

    Raises:
      ValueError: if the file is none of weights, or damaged.
    """
    about = _read(file)[0]
    config = run_folder.config_of(file, about.get("config"), about.get("format"))
    try:
        height, width, channels = map(int, about["input_shape"])
        mean, std = (tuple(map(float, about[name])) for name in ("mean", "std"))
        if not len(mean) == len(std) == channels:
            raise ValueError(f"{mean=} and {std=} are not of {channels} channels")
        num_classes = int(about["num_classes"])
    except _DAMAGE as error:
        raise _not_whole(file, error) from None
    return About(config, (height, width, channels), num_classes, mean, std)


def read(file: pathlib.Path, params: Any, stats: Any) -> tuple[Any, Any]:
    """Reads weights.

    Args:
      file: what `write` was given.
      params: parameters of the model, or their shapes.
      stats: running averages of normalization, or their shapes.

    Returns:
      Parameters and running averages, as NumPy arrays.

    Raises:
      ValueError: if the file is damaged or of another model.
    """
    about, arrays = _read(file)
    packed = about["packed"]

    def take(path: Any, like: Any) -> np.ndarray:
        name = _name(path)
        array = arrays.get(name)
        if array is not None and name in packed:
            array = _unpack(array, packed[name], like.dtype)
        if array is None or (array.shape, array.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{file} does not fit the model of its config at {name}.")
        return array

    return jax.tree.map_with_path(take, params), jax.tree.map_with_path(take, stats)


def _unpack(bits: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.size != -(-size // 8):
        return None
    signs = np.unpackbits(bits, count=size, bitorder="little")
    return np.where(signs, 1, -1).astype(dtype).reshape(shape)


def _read(file: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        about["packed"] = {k: tuple(map(int, v)) for k, v in about["packed"].items()}
    except _DAMAGE as error:
        raise _not_whole(file, error) from None
    return about, arrays


def _not_whole(file: pathlib.Path, error: Exception) -> ValueError:
    return ValueError(f"{file} is not a whole file of weights: {error}.")


def _by_path(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
