"""The work of ``sgdat-jax data``: prepare a set, say what is in it, show it."""

import os
import pathlib

import numpy as np
from matplotlib import figure
from rich import box, table, text

from sgdat_jax import files
from sgdat_jax.cli import options
from sgdat_jax.data import dataset, pictures, sources
from sgdat_jax.data.prepared_sets import prepared
from sgdat_jax.report import figures

_COLUMNS = 12
_ROWS = 8
_CELL = 0.8  # inches


def run(config: options.DataConfig) -> str | table.Table:
    """Runs a `data` command; returns what to print.

    Raises:
      ValueError: if the set is unknown or unfit, or if something cannot be written.
    """
    command = config.command
    if isinstance(command, options.PrepareConfig):
        return prepare(command)
    chosen = pictures.Options(
        command.test_share, command.image_size, command.resize, command.skip_broken
    )
    data = sources.load(command.name, command.data_dir, chosen)
    if isinstance(command, options.ShowConfig):
        return show(data, pathlib.Path(command.out))
    return info_table(data)


def prepare(config: options.PrepareConfig) -> str:
    """Prepares a set and returns where it is."""
    sources.check_name(config.name)
    if config.name == "digits" or "/" in config.name:
        raise ValueError(
            f"{config.name} needs no preparing: sgdat-jax data info reads it, as train "
            "does, and keeps decoded photos for the next time."
        )
    place, new = prepared.prepare(config.name, config.data_dir, config.source)
    return f"{config.name} {'is' if new else 'was already'} prepared in {place}"


def info_table(data: dataset.Dataset) -> table.Table:
    """Returns the table of a set: how many images of what kind each part has.

    Mean and deviation are those of pixels in [0, 1], channel by channel. Channels that
    are constant, numbered from 0, are left as they are but for their mean.
    """
    result = table.Table(
        title=f"{data.name}: {data.num_classes} classes",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    headers = ("part", "images", "shape", "per class", "mean", "deviation", "constant")
    for header in headers:
        result.add_column(header, justify="left" if header == "part" else "right")
    for part in ("train", "test"):
        images = getattr(data, f"{part}_images")
        labels = getattr(data, f"{part}_labels")
        counts = np.bincount(labels, minlength=data.num_classes)
        spread = sorted({int(counts.min()), int(counts.max())})
        statistics = dataset.channel_statistics(images)
        result.add_row(
            part,
            f"{len(images):,}",
            "x".join(map(str, images.shape[1:])),
            " to ".join(f"{count:,}" for count in spread),
            *(" ".join(f"{value:.4f}" for value in values) for values in statistics),
            ", ".join(str(i) for i, std in enumerate(statistics[1]) if not std),
        )
    if data.notes:
        result.caption = text.Text("\n".join(data.notes))
        result.caption_justify = "left"
    return result


def show(data: dataset.Dataset, path: pathlib.Path) -> str:
    """Writes a contact sheet as a PNG file and returns what it shows."""
    try:
        with files.whole(path, "wb") as file, figures.any_letters():
            contact_sheet(data).savefig(file, format="png", dpi=150)
    except OSError as error:
        raise ValueError(
            f"out must be a file that can be written, got {path} "
            f"({os.strerror(error.errno or 0)})."
        ) from error
    return f"training images of {data.name} in {path}"


def contact_sheet(data: dataset.Dataset) -> figure.Figure:
    """Draws training images with the names of their classes, taking turns.

    The first image of each class comes first, in the order of classes, then the second
    of each, and so on, until the sheet is full. Few classes have columns of their own.
    Images of 3 and 4 channels are in colour, others the grey mean of their channels.
    """
    columns = _COLUMNS // data.num_classes * data.num_classes or _COLUMNS
    chosen = _take_turns(data.train_labels, data.num_classes, columns * _ROWS)
    rows = -(-len(chosen) // columns)
    # Not through pyplot, which would keep every figure alive.
    fig = figure.Figure((columns * _CELL, rows * _CELL * 1.25))
    # A layout by itself would take seconds for so many axes.
    fig.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.2 / rows, wspace=0.1, hspace=0.3)
    cells = fig.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, index in zip(cells, chosen, strict=False):
        image = data.train_images[index]
        if image.shape[-1] in (3, 4):
            cell.imshow(image)
        else:
            cell.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255)
        name = data.class_names[data.train_labels[index]]
        cell.set_title(name[:14], fontsize=6, pad=2, parse_math=False)
    return fig


def _take_turns(labels: np.ndarray, num_classes: int, count: int) -> list[int]:
    """Returns indices of labels in which classes take turns, at most ``count``."""
    turns = []
    for label in range(min(num_classes, count)):
        places = np.flatnonzero(labels == label)[: -(-count // num_classes)]
        turns += [(turn, label, int(place)) for turn, place in enumerate(places)]
    return [place for *_, place in sorted(turns)][:count]
