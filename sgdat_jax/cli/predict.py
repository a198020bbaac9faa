"""The work of ``sgdat-jax predict``: say what pictures show."""

import concurrent.futures
import csv
import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box, console, table, text

from sgdat_jax import checks, files, inference
from sgdat_jax.cli import options
from sgdat_jax.data import arrays, pictures
from sgdat_jax.data.photo_sets import photos

_NAMED = 3  # pictures that a note names, at most
_AT_ONCE = 256  # pictures in memory


class Row(NamedTuple):
    """The prediction of a network for one picture."""

    image: str
    classes: tuple[str, ...]  # the likeliest first
    probabilities: tuple[float, ...]


class Work(NamedTuple):
    """The text to print."""

    rows: Sequence[Row]
    notes: Sequence[str]  # that belong to no row
    config: options.PredictConfig


class _Image(NamedTuple):
    name: str
    value: pathlib.Path | np.ndarray
    size: tuple[int, int]  # height and width


def set_up(config: options.PredictConfig) -> Work:
    """Classifies pictures.

    Raises:
      ValueError: if there is no such network, or if a picture is missing or broken; of
        those to be skipped, if there is no other.
    """
    if config.json and config.csv:
        raise ValueError("json and csv exclude each other, got both.")
    checks.at_least("top", config.top, 1)
    if not config.images:
        raise ValueError("images must name at least one picture, got none.")
    classify = inference.load(config.weights)
    with pictures.quiet():
        images, broken = _read(config.images)
        total, rows, resized = len(images) + len(broken), list[Row](), 0
        for start in range(0, len(images), _AT_ONCE):
            whole, unread = _decoded(classify, images[start : start + _AT_ONCE])
            broken |= unread
            if config.skip_broken or not broken:
                rows += predict(classify, whole, config.top)
            resized += sum(image.size != classify.input_shape[:2] for image in whole)
    notes = []
    if broken:
        shown = [f"{name} ({why})" for name, why in list(broken.items())[:_NAMED]]
        named = ", ".join(shown + ["..."] * (len(broken) > _NAMED))
        if not (config.skip_broken and rows):
            hint = "; --skip-broken leaves them out" if len(broken) < total else ""
            raise ValueError(
                f"{len(broken):,} of {total:,} pictures cannot be used: {named}{hint}."
            )
        notes.append(f"left out {len(broken):,} of {total:,} pictures: {named}")
    height, width, _ = classify.input_shape
    if resized:
        how = f"{classify.resize}: {pictures.RESIZES[classify.resize]}"
        notes.append(
            f"resized {resized:,} of {len(rows):,} pictures to {height}x{width} ({how})"
        )
    return Work(rows, notes, config)


def predict(
    classify: inference.Classifier, images: Sequence[_Image], top: int
) -> list[Row]:
    """Returns a row for each picture."""
    found = classify.predict([image.value for image in images])
    rows = []
    for image, probabilities in zip(images, found.probabilities, strict=True):
        best = np.argsort(-probabilities, kind="stable")[:top]
        names = tuple(classify.classes[label] for label in best)
        rows.append(
            Row(
                image.name,
                names,
                tuple(round(float(p), 6) for p in probabilities[best]),
            )
        )
    return rows


def run(work: Work, terminal: console.Console) -> None:
    """Prints rows, and notes on stderr."""
    errors = console.Console(stderr=True, highlight=False)
    for note in work.notes:
        errors.print(f"sgdat-jax: {note}", markup=False, emoji=False, soft_wrap=True)
    if work.config.json:
        terminal.out(json.dumps(_as_json(work.rows), indent=2), highlight=False)
    elif work.config.csv:
        terminal.out(_as_csv(work.rows), end="", highlight=False)
    else:
        terminal.print(_as_table(work.rows))


def _read(paths: Sequence[str]) -> tuple[list[_Image], dict[str, str]]:
    """Returns the images of paths, and reasons why others cannot be used."""
    images: list[_Image] = []
    broken: dict[str, str] = {}
    for name in paths:
        path = pathlib.Path(name)
        if path.suffix == ".npy":
            images += _of_array(path)
            continue
        found = [path]
        if path.is_dir():
            found = photos.find_pictures(path)
            if not found:
                raise ValueError(f"{path} must hold pictures, got none.")
        for picture in found:
            try:
                with files.open_regular(picture) as file:
                    header = pictures.read_header(file)
                images.append(_Image(str(picture), picture, header[:2]))
            except OSError as error:
                broken[str(picture)] = error.strerror or str(error)
    return images, broken


def _decoded(
    classify: inference.Classifier, images: Sequence[_Image]
) -> tuple[list[_Image], dict[str, str]]:
    """Returns images of the network's size, and why pictures cannot be decoded."""

    def decode(image: _Image) -> _Image | str:
        if isinstance(image.value, np.ndarray):
            return image
        try:
            with files.open_regular(image.value) as file:
                value = pictures.read(file, classify.input_shape, classify.resize)
        except (OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error)
        return image._replace(value=value)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(zip(images, pool.map(decode, images), strict=True))
    whole = [result for _, result in found if not isinstance(result, str)]
    return whole, {i.name: result for i, result in found if isinstance(result, str)}


def _of_array(path: pathlib.Path) -> list[_Image]:
    array = arrays.read(path)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise ValueError(
            f"{path}: images must be uint8 of shape (n, height, width, channels), got "
            f"{array.dtype} of shape {array.shape}."
        )
    if not array.size:
        raise ValueError(f"{path} must hold pictures, got shape {array.shape}.")
    if pictures.is_one(array):
        return [_Image(str(path), array, array.shape[:2])]
    size = array.shape[1:3]
    return [_Image(f"{path}[{i}]", image, size) for i, image in enumerate(array)]


def _as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "image": row.image,
            "class": row.classes[0],
            "probability": row.probabilities[0],
            "top": [
                {"class": name, "probability": probability}
                for name, probability in zip(
                    row.classes, row.probabilities, strict=True
                )
            ],
        }
        for row in rows
    ]


def _as_csv(rows: Sequence[Row]) -> str:
    data = io.StringIO()
    writer = csv.writer(data, lineterminator="\n")
    places = range(1, 1 + max((len(row.classes) for row in rows), default=1))
    header = [f"{name}_{i}" for i in places for name in ("class", "probability")]
    writer.writerow(["image", "class", "probability", *header[2:]])
    for row in rows:
        pairs = zip(row.classes, row.probabilities, strict=True)
        writer.writerow([row.image, *(value for pair in pairs for value in pair)])
    return data.getvalue()


def _as_table(rows: Sequence[Row]) -> table.Table:
    result = table.Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    result.add_column("image", overflow="fold")
    most = max((len(row.classes) for row in rows), default=1)
    for place in range(1, most + 1):
        result.add_column("class" if place == 1 else f"{place}.", overflow="fold")
        result.add_column("", justify="right", no_wrap=True)
    for row in rows:
        cells = [text.Text(row.image)]
        for name, probability in zip(row.classes, row.probabilities, strict=True):
            cells += [text.Text(name), text.Text(f"{probability:.1%}")]
        result.add_row(*cells)
    return result
