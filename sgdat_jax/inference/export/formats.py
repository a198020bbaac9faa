"""The table of formats, and the export itself: written, run, compared, put in place."""

import hashlib
import importlib
import importlib.metadata
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np

from sgdat_jax import __version__, files, names
from sgdat_jax.inference import function
from sgdat_jax.inference.export import checks, networks

_COMPARED = 64  # inputs, if none are given


class Format(NamedTuple):
    """A format: its module, and what it is made with."""

    module: str  # with `content`, `run` and `runs_here`
    packages: tuple[str, ...]  # distributions whose versions matter
    options: frozenset[str] = frozenset()  # those of `networks.Options` that it takes
    is_function: bool = True  # from pixels to logits; otherwise, weights alone


FORMATS = {
    "stablehlo": Format("stablehlo", ("jax", "jaxlib")),
    "iree": Format(
        "iree",
        ("jax", "iree-base-compiler", "iree-base-runtime"),
        frozenset(networks.Options._fields),
    ),
    "onnx": Format("onnx", ("jax", "onnx", "onnxruntime")),
    "litert": Format(
        "litert",
        ("jax", "litert-converter", "ai-edge-litert"),
        frozenset({"batch_size"}),
    ),
    "npz": Format("npz", ("numpy",), is_function=False),
    "torch": Format("torch", ("safetensors",), is_function=False),
}


class Report(NamedTuple):
    """What was written."""

    file: pathlib.Path
    about: dict[str, Any]  # the content of the file beside it


def export(
    source: str | pathlib.Path | function.Function,
    format: str,
    path: str | pathlib.Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_dtype: jax.typing.DTypeLike = "uint8",
    images: np.ndarray | None = None,
    target: str | None = None,
    cpu: str | None = None,
    batch_size: int | None = None,
) -> Report:
    """Writes a trained network in the format of another program.

    The file is run as soon as it is written, and takes its place only if it predicts
    the same class as the network does for each image. A file ``PATH.json`` beside it
    has the shape of the inputs, class names, versions, and what was compared.

    Args:
      source: a file of weights, the folder of a run (for its ``best.npz``), or a
        function of `load` or `to_function`, which onnx and litert take with products
        of ``"float32"`` alone.
      format: ``"stablehlo"``, ``"iree"``, ``"onnx"``, ``"litert"``, ``"npz"`` or
        ``"torch"``; ``"litert"`` needs ``pip install 'sgdat-jax[litert]'``, in an
        environment without the command, the others but ``"npz"`` ``pip install
        'sgdat-jax[export]'``.
      path: of the new file, which replaces one that is there.
      input_shape: of one input of a function; files of weights tell it.
      input_dtype: of the inputs of a function.
      images: what to compare classes of, shape ``(n, *input_shape)``; None: 64 random
        ones.
      target: of iree: target triple of the device, such as ``"aarch64-linux-gnu"``;
        None: this machine, whose processor's features are then used.
      cpu: of iree: name of the device's processor as LLVM has it.
      batch_size: of iree and litert: how many images the file takes at once, 1 by
        default.

    Returns:
      The path, and the content of the file beside it.

    Raises:
      ValueError: if the format is unknown or cannot hold the network, a package is
        missing, an option is not one of the format, the folder of `path` is not there,
        or a class differs.
      OSError: if the file cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> from flax import nnx
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import inference
      >>> model = nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(0))
      >>> network = inference.to_function(inference.fold(model))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     report = inference.export(
      ...         network,
      ...         "stablehlo",
      ...         pathlib.Path(folder, "net.stablehlo"),
      ...         input_shape=(8, 8, 1),
      ...         input_dtype="float32",
      ...     )
      >>> report.about["check"]["images"]
      64
    """
    kind = names.look_up("format", FORMATS, format)
    _check_place(pathlib.Path(path))
    options = networks.Options(target, cpu, batch_size)
    _check_options(format, kind, options)
    network = networks.open_network(source, input_shape, input_dtype)
    path = pathlib.Path(path)
    if network.file is not None and files.is_file(path) and path.samefile(network.file):
        raise ValueError(f"`path` must not be that of the source, got {path}.")
    inputs = network.random_inputs(_COMPARED) if images is None else np.asarray(images)
    content, check = _checked_content(kind, network, options, inputs, path)
    about = {
        "format": format,
        "holds": "a function" if kind.is_function else "weights",
        **network.describe(),
        **{name: value for name, value in options._asdict().items() if value},
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"sgdat-jax": __version__, **_versions(kind.packages)},
        "check": {"images": len(inputs), "random": images is None, **check},
    }
    with files.whole(path, "wb") as data:
        data.write(content)
    files.write_json(path.with_name(path.name + ".json"), about)
    return Report(path, about)


def _check_place(path: pathlib.Path) -> None:
    """Raises ValueError, before the work, if there can be no file of a path."""
    if not os.path.isdir(path.parent):
        raise ValueError(f"`path` must be in a folder that is there, got {path}.")
    if os.path.isdir(path):
        raise ValueError(f"`path` must be a file's, got the folder {path}.")


def _check_options(name: str, kind: Format, options: networks.Options) -> None:
    for option, value in options._asdict().items():
        if value is not None and option not in kind.options:
            takers = [name for name, kind in FORMATS.items() if option in kind.options]
            raise ValueError(
                f"`{option}` is an option of {', '.join(takers)}, got {value!r} for "
                f"{name}."
            )
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {options.batch_size}.")


def _checked_content(
    kind: Format,
    network: networks.Network,
    options: networks.Options,
    inputs: np.ndarray,
    path: pathlib.Path,
) -> tuple[bytes, dict[str, Any]]:
    """Returns the content of a file, which was run, and what that has shown.

    Raises:
      ValueError: if it cannot be made, or a class differs.
    """
    module = importlib.import_module(f"{__package__}.{kind.module}")
    runs_here = module.runs_here(options)
    content = module.content(network, options)
    tried, ran = content, "the file"
    if not runs_here:
        # The same program for this machine stands for it.
        options = options._replace(target=None, cpu=None)
        tried, ran = module.content(network, options), "the same program, built here"
    with tempfile.TemporaryDirectory(prefix="sgdat-jax-export-") as folder:
        file = pathlib.Path(folder, path.name)
        file.write_bytes(tried)
        logits = module.run(file, network, options)(inputs)
    return content, {"ran": ran, **checks.compare(network, inputs, logits)}


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}
