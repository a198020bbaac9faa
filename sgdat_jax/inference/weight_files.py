"""Files of trained weights alone, for deployment: binary weights as single bits.

A file is an uncompressed NumPy archive, so it has a checksum of each array. Its entry
``about`` is JSON in bytes: the format, what builds the network, how images are
normalized, the shapes of the packed weights, and as free text the config of the run and
what the weights reach. Every other entry is an array, named by its path in the network:
uint8 with eight weights in a byte, the first in the lowest bit and 1 for +1, if
``about`` has a shape for it, and as it is otherwise.
"""

import dataclasses
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from sgdat_jax import files, names, optimizers
from sgdat_jax.data import pictures
from sgdat_jax.models import specs

FORMAT = 2  # 1 had the run's config in place of `network`, and 0 no number
_ABOUT = "about"
_MOST_UNPACKED = 2**30  # bytes of a file that is smaller


class About(NamedTuple):
    """The network of a file, and the images it takes."""

    spec: specs.Spec | None  # None: of a network that only its user can build
    input_shape: tuple[int, int, int]  # height, width and channels
    num_classes: int
    mean: tuple[float, ...]  # of images in [0, 1], one per channel
    std: tuple[float, ...]
    config: Any  # of the run, as in JSON; not looked at
    class_names: tuple[str, ...] = ()  # none if the file does not say
    resize: str | None = None  # how photos of other sizes became images, if they did
    data: Any = None  # fingerprint of what it was trained on


def write(
    file: pathlib.Path,
    spec: specs.Spec | None,
    params: Any,
    stats: Any,
    details: Mapping[str, Any],
) -> None:
    """Writes weights, or nothing if that fails.

    Args:
      file: of the suffix ``.npz``.
      spec: what builds the network; None: unknown, so that it is needed to read it.
      params: parameters; those of binary layers that are -1 and +1 become bits.
      stats: running averages of normalization.
      details: ``mean``, ``std``, ``config`` and ``class_names`` of `About`, its
        ``input_shape`` if there is no `spec`, and more to say, such as an accuracy; as
        in JSON.
    """
    binary = by_path(optimizers.select_binary(params, params)).keys()
    shapes: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for path, leaf in (by_path(params) | by_path(stats)).items():
        if is_random_key(leaf):  # such as a dropout's: no prediction needs it
            continue
        array = np.asarray(leaf)
        if path in binary and (np.abs(array) == 1).all():
            shapes[path] = array.shape
            array = np.packbits(array > 0, bitorder="little")
        arrays[path] = array
    about = {
        "format": FORMAT,
        "network": None if spec is None else dataclasses.asdict(spec),
        "packed": shapes,
        **details,
    }
    arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with files.whole(file, "wb") as data:
        np.savez(data, **arrays)


def read_about(file: pathlib.Path) -> About:
    """Reads which network the weights belong to.

    Raises:
      ValueError: if the file is not a whole file of weights, or of a newer format.
    """
    about = _read(file)[0]
    found = about.get("format", 0)
    files.check_format(file, found, FORMAT)
    try:
        spec, input_shape, num_classes = _network(about)
        channels = input_shape[2]
        mean, std = (tuple(map(float, about[name])) for name in ("mean", "std"))
        if not len(mean) == len(std) == channels:
            raise ValueError(f"{mean=} and {std=} are not of {channels} channels")
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(f"{mean=} and {std=} must be finite, std above 0")
        class_names = tuple(map(str, about.get("class_names") or ()))
        if len(class_names) not in (0, num_classes):
            raise ValueError(
                f"class_names must be {num_classes}, got {len(class_names)}"
            )
        names.check_text(class_names)
        resize = about.get("resize")
        if resize is not None:
            names.look_up("resize", pictures.RESIZES, resize)
    except files.DAMAGE as error:
        raise _not_whole(file, error) from None
    config, data = about.get("config"), about.get("data")
    return About(
        *(spec, input_shape, num_classes, mean, std),
        *(config, class_names, resize, data),
    )


def _network(
    about: Mapping[str, Any],
) -> tuple[specs.Spec | None, tuple[int, int, int], int]:
    """Returns what builds the network of a file, the shape of images, and classes."""
    if about.get("network", about) is None:
        height, width, channels = map(int, about["input_shape"])
        return None, (height, width, channels), len(about["class_names"])
    # In format 1 the run's config and two entries have it all.
    values = about.get("network") or {
        "num_classes": about["num_classes"],
        "input_shape": about["input_shape"],
        **{k: v for k, v in about["config"].items() if k in specs.CHOICES},
    }
    height, width, channels = map(int, values["input_shape"])
    num_classes = int(values["num_classes"])
    spec = specs.Spec(
        **values
        | {
            "num_classes": num_classes,
            "input_shape": (height, width, channels),
            "full_precision": tuple(values.get("full_precision", ())),
        }
    )
    return spec, (height, width, channels), num_classes


def read_model(file: pathlib.Path, model: nnx.Module | None = None) -> Any:
    """Returns the network of a file, with its weights.

    Args:
      file: what `write` wrote.
      model: the network, whose own weights do not matter; None: it is built as the file
        says.

    Raises:
      ValueError: if the file is damaged, of another network, or of no network that can
        be built.
    """
    spec = read_about(file).spec
    if model is None and spec is None:
        raise ValueError(
            f"{file} does not say how to build its network, which had no name: pass "
            "the network itself, as in inference.load(file, model=...)."
        )
    try:
        shapes = spec.shapes() if model is None and spec is not None else model
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{file} has a network that cannot be built: {error}{_needs(file)}"
        ) from None
    graph, *states = nnx.split(shapes, nnx.Param, ...)
    return nnx.merge(graph, *read(file, *states))


def _needs(file: pathlib.Path) -> str:
    """Returns which modules a run had that may have added its network, as a hint."""
    config = read_about(file).config
    modules = config.get("plugin") if isinstance(config, dict) else None
    return f" Its run had --plugin {' '.join(map(str, modules))}." if modules else ""


def read(file: pathlib.Path, params: Any, stats: Any) -> tuple[Any, Any]:
    """Reads weights.

    Args:
      file: what `write` was given.
      params: parameters of the model, or their shapes.
      stats: running averages of normalization, or their shapes.

    Returns:
      Parameters and running averages, as NumPy arrays; random keys stay as they are.

    Raises:
      ValueError: if the file is damaged or of another model.
    """
    about, arrays = _read(file)
    packed = about["packed"]

    def take(path: Any, like: Any) -> Any:
        name = name_of(path)
        if is_random_key(like):
            return like
        array = arrays.get(name)
        if array is not None and name in packed:
            array = _unpack(array, packed[name], like.dtype)
        if array is None or (array.shape, array.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{file} does not fit the network it names at {name}.")
        return array

    return jax.tree.map_with_path(take, params), jax.tree.map_with_path(take, stats)


def read_arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file by their names; bits become float32 -1 and +1.

    Raises:
      ValueError: if the file is damaged.
    """
    about, arrays = _read(file)
    for name, shape in about["packed"].items():
        unpacked = None
        if name in arrays and min(shape, default=0) >= 0:
            unpacked = _unpack(arrays[name], shape, np.float32)
        if unpacked is None:
            error = ValueError(f"{name} must have the bits of shape {shape}")
            raise _not_whole(file, error)
        arrays[name] = unpacked
    return arrays


def is_random_key(leaf: Any) -> bool:
    """Returns whether an array is a random key, which files do not hold."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _unpack(bits: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.size != -(-size // 8):
        return None
    signs = np.unpackbits(bits, count=size, bitorder="little")
    return np.where(signs, 1, -1).astype(dtype).reshape(shape)


def _read(file: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with files.open_regular(file) as data:
            # NumPy would speak of pickles.
            if not zipfile.is_zipfile(data):
                raise ValueError("it is not a NumPy archive (.npz)")
            _check_size(data)
            with np.load(data, allow_pickle=False) as archive:
                arrays = dict(archive)
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):  # a member that is no .npy file
                raise ValueError(f"{name} is not an array")
            # Folded to thresholds and bits they would predict something all the same.
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} has values that are not finite")
        about = files.from_json(arrays.pop(_ABOUT).tobytes())
        about["packed"] = {k: tuple(map(int, v)) for k, v in about["packed"].items()}
    except files.DAMAGE as error:
        raise _not_whole(file, error) from None
    return about, arrays


def _check_size(data: IO[bytes]) -> None:
    """Raises ValueError if an archive unpacks to much more than it is."""
    with zipfile.ZipFile(data) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(data.seek(0, os.SEEK_END), _MOST_UNPACKED):
        raise ValueError(
            f"it unpacks to {unpacked:,} bytes; above {_MOST_UNPACKED:,} a file must "
            "not be compressed"
        )
    data.seek(0)


def _not_whole(file: pathlib.Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{file} is not a whole file of weights: {reason}.")


def by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a network's state by their names in files."""
    return {name_of(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def name_of(path: Any) -> str:
    """Returns the name in files of what has a path in a network's state."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
