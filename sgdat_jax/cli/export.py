"""The work of ``sgdat-jax export`` and ``sgdat-jax import``."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from flax import nnx

from sgdat_jax.cli import options
from sgdat_jax.data import pictures, sources
from sgdat_jax.inference import classifier, torch_weights, weight_files
from sgdat_jax.inference.export import formats

_COMPARED = 512  # test images at most
_MOST_IMAGES = 2**20  # in a batch; files count the numbers of a layer in 32 bits


def export(config: options.ExportConfig) -> str:
    """Exports a network; returns what to print.

    Raises:
      ValueError: as `formats.export`.
      OSError: if the file cannot be written.
    """
    if (config.batch_size or 0) >= _MOST_IMAGES:
        raise ValueError(
            f"batch_size must be less than {_MOST_IMAGES:,}, got {config.batch_size}."
        )
    file = classifier.find_file(config.source)
    images, name = _test_images(weight_files.read_about(file))
    report = formats.export(
        file,
        config.format,
        config.out,
        images=images,
        target=config.target,
        cpu=config.cpu,
        batch_size=config.batch_size,
    )
    check = report.about["check"]
    rounded = check["except_where_rounding_decides"]
    return (
        f"{report.file}: {report.about['bytes']:,} bytes; {check['ran']} predicts the "
        f"same classes as the network for {check['images'] - rounded} of "
        f"{check['images']} {name}"
        + (f" ({rounded}: rounding decides)" if rounded else "")
    )


def _test_images(about: weight_files.About) -> tuple[np.ndarray | None, str]:
    """Returns test images of the run that made a file, and what they are."""
    config: Any = about.config if isinstance(about.config, dict) else {}
    name, data_dir = config.get("dataset"), config.get("data_dir")
    fields = dataclasses.fields(pictures.Options)
    try:
        known = {f.name: config[f.name] for f in fields if f.name in config}
        chosen = pictures.Options(**known)
        data = sources.load(str(name), data_dir and str(data_dir), chosen)
    except (TypeError, ValueError, OSError, ImportError):
        return None, "random images, as its data are not at hand"
    images = data.test_images
    if images.shape[1:] != about.input_shape:
        return None, f"random images, as those of {name} have another shape"
    return images[:_COMPARED], f"test images of {name}"


def import_weights(config: options.ImportConfig) -> str:
    """Writes a file of weights; returns what to print.

    Raises:
      ValueError: as `torch_weights.from_torch`, or if mean or std do not fit.
      OSError: if the file cannot be written.
    """
    spec, model = torch_weights.read(config.source)
    channels = spec.input_shape[2]
    if not len(config.mean) == len(config.std) == channels or min(config.std) <= 0:
        raise ValueError(
            f"mean and std must have a number for each of {channels} channels, std "
            f"above 0, got {config.mean} and {config.std}."
        )
    out = pathlib.Path(config.out)
    if out.suffix != ".npz":
        raise ValueError(f"out must end in .npz, got {out}.")
    params, stats = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    details = {"mean": config.mean, "std": config.std, "from": "PyTorch"}
    weight_files.write(out, spec, params, stats, details)
    height, width, _ = spec.input_shape
    return (
        f"{out}: {spec.model} of width {spec.width:g} for {spec.num_classes} classes "
        f"and {height}x{width} images"
    )
