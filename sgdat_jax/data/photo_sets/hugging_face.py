"""Data sets that Hugging Face's ``datasets`` saved on disk."""

import functools
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import IO, Any

from sgdat_jax import files
from sgdat_jax.data import dataset, pictures
from sgdat_jax.data.photo_sets import picture_sets

PREFIX = "hf:"
_TEST = ("test", "validation", "valid", "val")  # splits, best first


def load(
    name: str,
    options: pictures.Options | None = None,
    cache: str | pathlib.Path | None = None,
) -> dataset.Dataset:
    """Returns the data set of a folder that ``datasets`` saved by ``save_to_disk``.

    It has a column of images and one of labels: class labels, texts or whole numbers.
    The test part is the split ``test``, or else ``validation``; without either each
    class gives a fifth of its images, by the rule of `picture_sets.held_out`. The rest
    is as in `photos.load`.

    Args:
      name: ``hf:<path of the folder>``.
      options: how pictures become images.
      cache: folder of what is decoded; None: that of the user.

    Raises:
      ValueError: if ``datasets`` is not installed, the folder is none that it can read,
        or columns are missing; or as `picture_sets.load`.
    """
    folder = pathlib.Path(name.removeprefix(PREFIX))
    source = _source(folder, options or pictures.Options())
    return picture_sets.load(source, cache)


def _source(folder: pathlib.Path, options: pictures.Options) -> picture_sets.Source:
    splits = _splits(folder)
    train = splits.get("train")
    test = next((splits[name] for name in _TEST if name in splits), None)
    if train is None:
        raise ValueError(f"{folder} must have a split train, got {', '.join(splits)}.")
    if test is not None and options.test_share is not None:
        raise ValueError(
            f"test_share is for sets without a split to test with, {folder} has one, "
            f"got {options.test_share}."
        )
    image, label = _columns(folder, train.features)
    sets = {"train": train} | ({} if test is None else {"test": test})
    class_names, labels = _labels(folder, sets, label)
    rows = {
        part: [
            (f"{index} of {part}", label) for index, label in enumerate(labels[part])
        ]
        for part in sets
    }
    share = None
    if test is None:
        share = options.test_share or picture_sets.TEST_SHARE
        rows = picture_sets.held_out(rows["train"], share)
    parts = {}
    for part, chosen in rows.items():
        indices = [int(name.partition(" ")[0]) for name, _ in chosen]
        column = _encoded(sets.get(part, train), image)
        parts[part] = picture_sets.Part(
            [f"image {name}" for name, _ in chosen],
            [label for _, label in chosen],
            functools.partial(_open, column, image, indices),
        )
    return picture_sets.Source(
        name=folder.resolve().name,
        place=folder,
        class_names=class_names,
        parts=parts,
        broken={},
        fingerprint=_fingerprint(folder),
        test_share=share,
        options=options,
    )


def _splits(folder: pathlib.Path) -> dict[str, Any]:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{PREFIX}{folder} needs Hugging Face's datasets: pip install datasets"
        ) from None
    if not folder.is_dir():  # or it would be looked for elsewhere
        raise ValueError(f"{folder} must be a folder that datasets saved.")
    try:
        found = datasets.load_from_disk(os.fspath(folder))
    except Exception as error:  # of damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} cannot be read by datasets: {reason}") from error
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}


def _columns(folder: pathlib.Path, features: Any) -> tuple[str, str]:
    """Returns the names of the columns of images and of labels."""
    import datasets

    images = [n for n, f in features.items() if isinstance(f, datasets.Image)]
    labels = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    labels += [n for n in ("label", "labels") if n in features and n not in labels]
    if not images or not labels:
        raise ValueError(
            f"{folder} must have a column of images and one named label, got "
            f"{', '.join(features)}."
        )
    return ("image" if "image" in images else images[0]), labels[0]


def _labels(
    folder: pathlib.Path, sets: dict[str, Any], column: str
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Returns the names of the classes, and labels by part."""
    import datasets

    values = {part: list(of_part[column]) for part, of_part in sets.items()}
    feature = sets["train"].features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), values
    known = sorted(set(values["train"]))
    for part, of_part in values.items():
        for value in of_part:
            if value not in known or not isinstance(value, str | int):
                raise ValueError(
                    f"{folder}: {column} must be a class of the split train, got "
                    f"{value!r} in {part}."
                )
    numbers = {value: number for number, value in enumerate(known)}
    names = tuple(map(str, known))
    return names, {part: [numbers[v] for v in values[part]] for part in values}


def _encoded(of_part: Any, image: str) -> Any:
    """Returns the column of images as they are stored, for us to decode."""
    import datasets

    column = of_part.select_columns([image])
    return column.cast_column(image, datasets.Image(decode=False))


def _open(column: Any, image: str, indices: Sequence[int], index: int) -> IO[bytes]:
    stored = column[indices[index]][image]
    if stored["bytes"] is not None:
        return io.BytesIO(stored["bytes"])
    return files.open_regular(stored["path"])


def _fingerprint(folder: pathlib.Path) -> str:
    listing = [
        (os.path.relpath(path, folder), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
