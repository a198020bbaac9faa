"""Folders of photos, a folder for each class."""

import functools
import hashlib
import json
import os
import pathlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from sgdat_jax import files
from sgdat_jax.data import dataset, pictures
from sgdat_jax.data.photo_sets import picture_sets

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")  # best first
_LAYOUT = "train/CLASS/*.jpg with test/CLASS/*.jpg, or CLASS/*.jpg"
_NAMED = 3  # files that a message names, at most


class _File(NamedTuple):
    """A picture by its path below the folder, with / between its parts."""

    path: str
    size: int
    changed: int  # nanoseconds


class _Found(NamedTuple):
    """What is in the folder of a part, by class."""

    classes: dict[str, list[_File]]
    broken: dict[str, str]  # reasons, by path
    others: list[str]  # paths of files that are no pictures by their suffixes


def load(
    folder: str | pathlib.Path,
    options: pictures.Options | None = None,
    cache: str | pathlib.Path | None = None,
) -> dataset.Dataset:
    """Returns the data set of a folder of photos; images stay on disk until used.

    The folder holds ``train/CLASS/*`` and ``test/CLASS/*`` (or ``val``), or ``CLASS/*``
    alone. Pictures may lie in folders of a class's folder; hidden files are left out.
    Classes are numbered in the order of their names.

    Without a folder to test with, each class gives a fifth of its pictures, by the rule
    of `picture_sets.held_out`.

    The pictures are decoded once, in threads, into a folder of the user's cache. They
    are decoded anew when a name, a size or a time of change is another.

    Args:
      folder: which is not written to.
      options: how pictures become images.
      cache: folder of what is decoded; None: that of the user, or memory where there
        is none.

    Raises:
      ValueError: if the folder is laid out otherwise, pictures are broken (and not to
        be skipped), or a class has none; or as `dataset.checked`.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from sgdat_jax.data.photo_sets import photos
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("cat", "dog"):
      ...         pathlib.Path(folder, "pets", name).mkdir(parents=True)
      ...         for number in range(5):
      ...             picture = Image.new("RGB", (40, 30), (number, 0, 0))
      ...             picture.save(f"{folder}/pets/{name}/{number}.png")
      ...     data = photos.load(f"{folder}/pets", cache=f"{folder}/cache")
      >>> data.class_names, data.train_images.shape, len(data.test_images)
      (('cat', 'dog'), (8, 30, 30, 3), 2)
    """
    source = list_folder(pathlib.Path(folder), options or pictures.Options())
    return picture_sets.load(source, cache)


def list_folder(folder: pathlib.Path, options: pictures.Options) -> picture_sets.Source:
    """Lists the photos of a folder, and says which are to test with.

    Raises:
      ValueError: as `load`; no file is opened.
    """
    train, test, notes = _parts(folder)
    found = _find(train)
    held = _find(test) if test else None
    if held and options.test_share is not None:
        raise ValueError(
            f"test_share is for folders without photos to test with, {test} has them, "
            f"got {options.test_share}."
        )
    class_names = _check_classes(folder, train, found, test, held)
    chosen = {"train": _chosen(found, class_names)}
    share = None
    if held:
        chosen["test"] = _chosen(held, class_names)
    else:
        share = options.test_share or picture_sets.TEST_SHARE
        chosen = picture_sets.held_out(chosen["train"], share)
        notes.append(f"{share:.0%} of each class, chosen by file names, are to test")
    places = {"train": train, "test": test or train}
    every = {"train": found} | ({"test": held} if held else {})
    others = [path for one in every.values() for path in one.others]
    return picture_sets.Source(
        name=folder.resolve().name,
        place=folder,
        class_names=class_names,
        parts={
            part: picture_sets.Part(
                [os.path.relpath(places[part] / path, folder) for path, _ in of_part],
                [label for _, label in of_part],
                functools.partial(_open, places[part], [path for path, _ in of_part]),
            )
            for part, of_part in chosen.items()
        },
        broken={
            os.path.relpath(places[part] / path, folder): reason
            for part, one in every.items()
            for path, reason in one.broken.items()
        },
        fingerprint=_fingerprint(list(every.values())),
        test_share=share,
        options=options,
        notes=(*notes, *_of_others(others)),
    )


def _chosen(found: _Found, class_names: Sequence[str]) -> list[tuple[str, int]]:
    """Returns path and label of each picture."""
    return [
        (file.path, label)
        for label, name in enumerate(class_names)
        for file in found.classes.get(name, ())
    ]


def _open(folder: pathlib.Path, paths: Sequence[str], index: int) -> IO[bytes]:
    return files.open_regular(folder / paths[index])


def _parts(
    folder: pathlib.Path,
) -> tuple[pathlib.Path, pathlib.Path | None, list[str]]:
    """Returns the folders to train and to test with, and notes on them."""
    folders = _folders(folder)
    inner = {path.name.casefold(): path for path in folders}
    train = next((inner[name] for name in _TRAIN if name in inner), None)
    tests = [inner[name] for name in _TEST if name in inner]
    if train is None or not (tests or len(inner) == 1):
        return folder, None, []  # "train" may be a class
    test = tests[0] if tests else None
    unused = [path.name for path in folders if path not in (train, test)]
    notes = [f"{name}/ is not used" for name in unused]
    return train, test, notes


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders in a folder, and links to some, by name; no hidden ones."""
    try:
        found = [p for p in folder.iterdir() if _is_shown(p.name) and p.is_dir()]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}.") from None
    return sorted(found, key=lambda path: path.name)


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _find(folder: pathlib.Path) -> _Found:
    """Finds the pictures of each class of a part, sorted by their paths."""
    found = _Found({}, {}, [])
    for inner in _folders(folder):
        of_class = found.classes.setdefault(_class_name(inner.name), [])
        for path in sorted(_walk(inner)):
            name = path.relative_to(folder).as_posix()
            suffix = path.suffix.lower()
            if suffix not in pictures.SUFFIXES | pictures.OTHER_SUFFIXES:
                found.others.append(name)
                continue
            try:
                about = path.stat()
            except OSError as error:
                found.broken[name] = error.strerror or "it cannot be read"
                continue
            if suffix in pictures.OTHER_SUFFIXES:
                formats = ", ".join(pictures.FORMATS)
                found.broken[name] = f"its format must be one of {formats}"
            else:
                file = _File(name, about.st_size, about.st_mtime_ns)
                of_class.append(file)
    found.others.extend(
        path.name
        for path in folder.iterdir()
        if _is_shown(path.name) and path.suffix.lower() in pictures.SUFFIXES
    )
    return found


def _class_name(name: str) -> str:
    """Returns a folder's name with each letter as one character.

    Some systems keep a letter and its accent apart: it looks the same, and is not.
    Bytes that are no letters in UTF-8 become their numbers.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def find_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pictures in a folder, by their suffixes, at any depth, by name.

    Hidden files are left out, and links to folders are not followed.
    """
    return sorted(p for p in _walk(folder) if p.suffix.lower() in pictures.SUFFIXES)


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields all that is no folder, at any depth; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = filter(_is_shown, folders)
        yield from (pathlib.Path(place, name) for name in filter(_is_shown, names))


def _check_classes(
    folder: pathlib.Path,
    train: pathlib.Path,
    found: _Found,
    test: pathlib.Path | None,
    held: _Found | None,
) -> tuple[str, ...]:
    if not any(found.classes.values()) and found.broken:
        path, reason = min(found.broken.items())
        raise ValueError(
            f"{folder} must hold pictures that can be used, got {path} ({reason}) and "
            "the like."
        )
    if not any(found.classes.values()):
        raise ValueError(
            f"{folder} is not a folder of arrays (train_images.npy) or of photos "
            f"({_LAYOUT}): it has no folders of classes with pictures in them."
        )
    with_broken = {_class_name(path.partition("/")[0]) for path in found.broken}
    for name, pictures_of_class in found.classes.items():
        if not pictures_of_class and name not in with_broken:
            raise ValueError(
                f"{train / name} must hold a picture of its class: put some there, or "
                "remove the folder."
            )
    if len(found.classes) < 2:
        raise ValueError(
            f"{train} must have a folder for each of two or more classes, got "
            f"{', '.join(found.classes)}."
        )
    for name, tests in held.classes.items() if held else ():
        if tests and name not in found.classes:
            raise ValueError(f"{test}/{name} belongs to no class in {train}.")
    if held and not any(held.classes.values()):
        raise ValueError(f"{test} must hold pictures of classes ({_LAYOUT}).")
    return tuple(sorted(found.classes))


def _of_others(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return [f"files that are no pictures of a class are not used: {shown}"]


def _fingerprint(found: Sequence[_Found]) -> str:
    listing = [[one.classes, sorted(one.broken)] for one in found]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
