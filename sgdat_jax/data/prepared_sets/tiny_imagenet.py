"""TinyImageNet as it is published: a zip, or the folder that is in it."""

import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sgdat_jax import files as file_lib
from sgdat_jax.data import dataset, decoding

NAME = "tiny_imagenet"
_ROOT = "tiny-imagenet-200"
_CLASS_IDS = "wnids.txt"
_MOST_BYTES = 2**26  # of a file within the zip


class Files(NamedTuple):
    """The files of the published set, in a folder or within a zip."""

    place: str  # of the folder, or the zip
    names: frozenset[str]  # relative, with forward slashes
    read: Callable[[str], bytes]  # of a name


class Image(NamedTuple):
    """An image that is not read yet."""

    name: str
    label: int


class Listing(NamedTuple):
    """The images, with their classes."""

    class_names: tuple[str, ...]
    train: tuple[Image, ...]
    test: tuple[Image, ...]


def is_raw(path: str | pathlib.Path) -> bool:
    """Returns whether a path is the published set: a file, or a folder with it."""
    path = pathlib.Path(path)
    return path.is_file() or _root(path) is not None


def open_files(path: str | pathlib.Path) -> Files:
    """Returns the files of the published set.

    Args:
      path: ``tiny-imagenet-200.zip``, its unpacked folder, or a folder with that one.

    Raises:
      ValueError: if there is no such set or the zip is damaged.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        root = _root(path)
        if root is None:
            raise ValueError(f"{path} holds no {_ROOT} (no {_CLASS_IDS}).")
        found = (file for file in root.rglob("*") if file.is_file())
        names = frozenset(file.relative_to(root).as_posix() for file in found)
        return Files(str(root), names, lambda name: _read_file(root / name))
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing.") from None
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole zip file: {error}") from error
    members = archive.namelist()
    prefix = f"{_ROOT}/" if f"{_ROOT}/{_CLASS_IDS}" in members else ""
    if prefix + _CLASS_IDS not in members:
        raise ValueError(f"{path} holds no {_ROOT} (no {_CLASS_IDS}).")
    names = frozenset(
        name.removeprefix(prefix)
        for name in members
        if name.startswith(prefix) and not name.endswith("/")
    )

    def read(name: str) -> bytes:
        try:
            size = archive.getinfo(prefix + name).file_size
            if size > _MOST_BYTES:
                raise ValueError(f"it unpacks to more than {_MOST_BYTES:,} bytes")
            return archive.read(prefix + name)
        except file_lib.DAMAGE as error:
            raise ValueError(f"{path}/{name} is damaged: {error}") from error

    return Files(str(path), names, read)


def _read_file(path: pathlib.Path) -> bytes:
    with file_lib.open_regular(path) as data:
        return data.read()


def listing(files: Files) -> Listing:
    """Returns the images and classes of the published set.

    Classes are in the order of their WordNet ids, as folders are sorted, and named by
    the first of their words. The published validation images, whose labels stand in
    ``val/val_annotations.txt``, are the test part; the published test images have no
    labels and are left out.

    Raises:
      ValueError: if a file is missing or cannot be understood; the message names it.
    """
    class_ids = sorted(_lines(files, _CLASS_IDS))
    numbers = {class_id: number for number, class_id in enumerate(class_ids)}
    if len(numbers) != len(class_ids) or not numbers:
        raise ValueError(f"{files.place}/{_CLASS_IDS}: must have different ids.")
    train = []
    for name in sorted(files.names):
        match name.split("/"):
            case ["train", class_id, "images", _]:
                if class_id not in numbers:
                    raise ValueError(
                        f"{files.place}/{name} is of no class of {_CLASS_IDS}."
                    )
                train.append(Image(name, numbers[class_id]))
    return Listing(_class_names(files, class_ids), tuple(train), _test(files, numbers))


def examples(files: Files, images: tuple[Image, ...]) -> Iterator[decoding.Example]:
    """Yields the images of a listing with their contents."""
    for image in images:
        place = f"{files.place}/{image.name}"
        if image.name not in files.names:
            raise ValueError(f"{place} is missing.")
        yield decoding.Example(place, files.read(image.name), image.label)


def load(path: str | pathlib.Path) -> dataset.Dataset:
    """Returns TinyImageNet read from its published files, which takes a minute or so.

    Args:
      path: as in `open_files`.

    Returns:
      100,000 images to train and 10,000 to test, 64x64 pixels, of 200 classes. The few
      grey images have three equal channels.

    Raises:
      ValueError: if a file is missing or damaged; the message names it.

    References:
      Le and Yang, Tiny ImageNet visual recognition challenge, Stanford CS 231N, 2015,
      http://cs231n.stanford.edu/tiny-imagenet-200.zip
    """
    files = open_files(path)
    listed = listing(files)
    fields: dict[str, Any] = {}
    for part, images in (("train", listed.train), ("test", listed.test)):
        if not images:
            raise ValueError(f"{files.place} has no images to {part}.")
        fields[f"{part}_images"], fields[f"{part}_labels"] = decoding.read(
            examples(files, images), len(images)
        )
    data = dataset.Dataset(NAME, **fields, class_names=listed.class_names)
    return dataset.checked(data, lambda field: f"{files.place} ({field})")


def _root(folder: pathlib.Path) -> pathlib.Path | None:
    for candidate in (folder, folder / _ROOT):
        if (candidate / _CLASS_IDS).is_file():
            return candidate
    return None


def _lines(files: Files, name: str) -> list[str]:
    if name not in files.names:
        raise ValueError(f"{files.place}/{name} is missing.")
    try:
        return files.read(name).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{files.place}/{name} is not text: {error}") from error


def _class_names(files: Files, class_ids: list[str]) -> tuple[str, ...]:
    words = dict(line.partition("\t")[::2] for line in _lines(files, "words.txt"))
    names = [words.get(i, i).partition(",")[0].strip() or i for i in class_ids]
    # Two animals of one name are told apart by their ids.
    return tuple(
        name if names.count(name) == 1 else f"{name} ({class_id})"
        for name, class_id in zip(names, class_ids, strict=True)
    )


def _test(files: Files, numbers: dict[str, int]) -> tuple[Image, ...]:
    annotations = "val/val_annotations.txt"
    images = []
    for number, line in enumerate(_lines(files, annotations), start=1):
        name, _, rest = line.partition("\t")
        class_id = rest.partition("\t")[0]
        if class_id not in numbers:
            raise ValueError(
                f"{files.place}/{annotations}: line {number} must have an image and a "
                f"class of {_CLASS_IDS}, got {line!r}."
            )
        images.append(Image(f"val/images/{name}", numbers[class_id]))
    return tuple(images)
