"""Data sets made of pictures: decoded once, and kept as arrays in a cache."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import statistics
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from sgdat_jax import files
from sgdat_jax.data import dataset, pictures
from sgdat_jax.data.photo_sets import picture_cache

TEST_SHARE = 0.2  # unless the user says otherwise
_SIZES = "image_size.json"
_LARGEST_DEFAULT = 64  # pixels of a side
_DEFAULT_SIZES = range(pictures.LEAST_SIZE, _LARGEST_DEFAULT + 1)
_AT_ONCE = 1024  # pictures given to the threads together
_NAMED = 3  # pictures that a message names, at most


class Part(NamedTuple):
    """The pictures of a part of a data set."""

    names: Sequence[str]  # what messages call them
    labels: Sequence[int]
    open: Callable[[int], IO[bytes]]  # by their indices


class Source(NamedTuple):
    """Where the pictures of a data set are, and how they become images."""

    name: str  # of the data set
    place: pathlib.Path
    class_names: tuple[str, ...]
    parts: Mapping[str, Part]  # train and test
    broken: Mapping[str, str]  # reasons, by name, of pictures that are in no part
    fingerprint: str  # which changes with the pictures
    test_share: float | None  # None: the parts are the user's
    options: pictures.Options
    notes: tuple[str, ...] = ()  # what users should hear


class _Way(NamedTuple):
    """How pictures become images: all that is chosen before they are decoded."""

    size: int
    channels: int
    resize: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, self.channels


def load(source: Source, cache: str | pathlib.Path | None = None) -> dataset.Dataset:
    """Returns the data set of a source, from the cache if it is there.

    Args:
      source: of the pictures.
      cache: folder of decoded sets; None: one in the user's cache folder, or memory
        where that cannot be written.

    Raises:
      ValueError: if pictures are broken, unless they may be skipped, or if a class has
        no whole picture to train with.
    """
    headers: dict[str, list[pictures.Header | str]] = {}  # where they are needed
    with picture_cache.locked(source.name, source.place, cache) as place:
        size = _image_size(source, place, headers)
        options = dataclasses.replace(
            source.options,
            image_size=size,
            resize=source.options.resize or "crop",
            test_share=source.test_share,
        )
        key = picture_cache.digest(dataclasses.asdict(options))
        found = picture_cache.read(place / key, _version(source)) if place else None
        if found is not None:
            with contextlib.suppress(*files.DAMAGE):  # then it is made anew
                return _data_set(source, options, found)
        headers = headers or _read_headers(source)
        found = _decode(source, options, headers, place, key)
    return _data_set(source, options, found)


def _data_set(
    source: Source, options: pictures.Options, found: Mapping[str, Any]
) -> dataset.Dataset:
    """Returns a data set of what `picture_cache.read` returns.

    Raises:
      ValueError: if a part is no part of images of their size.
    """
    fields = dict(found)
    data = dataset.Dataset(
        name=source.name,
        class_names=source.class_names,
        options=options,
        notes=(*source.notes, *fields.pop("about")["notes"]),
        **fields,
    )
    dataset.checked(data, lambda field: f"{source.place} ({field})")
    if data.input_shape[:2] != (options.image_size, options.image_size):
        raise ValueError(f"{source.place} has images of shape {data.input_shape}.")
    return data


def held_out(
    pictures_: Sequence[tuple[str, int]], share: float
) -> dict[str, list[tuple[str, int]]]:
    """Returns which pictures are to train with, and which to test with.

    Of each class a share is to test with, but at least one picture and never all: those
    whose names have the lowest SHA-256 digests. So the choice depends on names alone,
    whatever their order, and new pictures hardly change it.

    Args:
      pictures_: name and label of each.
      share: of each class, to test with.

    Raises:
      ValueError: if no class has two pictures.

    Example:
      >>> from sgdat_jax.data.photo_sets import picture_sets
      >>> names = [("cat/1", 0), ("cat/2", 0), ("cat/3", 0), ("dog/1", 1), ("dog/2", 1)]
      >>> picture_sets.held_out(names, 0.2)["test"]
      [('cat/1', 0), ('dog/1', 1)]
    """
    by_class: dict[int, list[tuple[str, int]]] = {}
    for picture in pictures_:
        by_class.setdefault(picture[1], []).append(picture)
    tests: set[tuple[str, int]] = set()
    for of_class in by_class.values():
        count = min(max(1, int(len(of_class) * share + 0.5)), len(of_class) - 1)
        tests.update(sorted(of_class, key=_rank)[:count])
    if not tests:
        raise ValueError("A class must have two pictures, one of them to test with.")
    return {
        "train": [picture for picture in pictures_ if picture not in tests],
        "test": [picture for picture in pictures_ if picture in tests],
    }


def _rank(picture: tuple[str, int]) -> tuple[bytes, str]:
    # Some systems keep an accent apart from its letter.
    name = unicodedata.normalize("NFC", picture[0])
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), name


def _version(source: Source) -> str:
    """Returns what changes with the pictures and with their decoder."""
    import PIL

    return picture_cache.digest([source.fingerprint, PIL.__version__])


def _image_size(
    source: Source,
    place: pathlib.Path | None,
    headers: dict[str, list[pictures.Header | str]],
) -> int:
    """Returns the side of the images: as asked for, or that of most pictures.

    Args:
      source: of the pictures.
      place: where the answer is kept.
      headers: is filled if they have to be read.
    """
    if source.options.image_size is not None:
        return source.options.image_size
    kept: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        kept = files.read_json(place / _SIZES) if place else {}
    size = kept.get("size")
    is_kept = isinstance(size, int) and size in _DEFAULT_SIZES
    if is_kept and kept.get("version") == _version(source):
        return kept["size"]
    headers.update(_read_headers(source))
    sides = [min(h.height, h.width) for h in headers["train"] if not isinstance(h, str)]
    size = int(statistics.median(sides)) if sides else _LARGEST_DEFAULT
    size = max(pictures.LEAST_SIZE, min(size, _LARGEST_DEFAULT))
    if place:
        files.write_json(place / _SIZES, {"version": _version(source), "size": size})
    return size


def _read_headers(source: Source) -> dict[str, list[pictures.Header | str]]:
    """Returns the headers of all pictures, or reasons why there is none."""
    return {
        name: _each(part, "reading headers", lambda file, _: pictures.read_header(file))
        for name, part in source.parts.items()
    }


def _decode(
    source: Source,
    options: pictures.Options,
    headers: Mapping[str, Sequence[pictures.Header | str]],
    place: pathlib.Path | None,
    key: str,
) -> dict[str, Any]:
    """Decodes the pictures into an entry of the cache, or without a place into memory.

    Returns:
      What `picture_cache.read` does.
    """
    broken = dict(source.broken)
    parts = {}
    for name, part in source.parts.items():
        reasons = {i: h for i, h in enumerate(headers[name]) if isinstance(h, str)}
        broken |= {part.names[index]: reason for index, reason in reasons.items()}
        parts[name] = _without(part, reasons)
    _check_broken(source, broken)
    whole = [h for of in headers.values() for h in of if not isinstance(h, str)]
    way = _Way(
        size=options.image_size or _LARGEST_DEFAULT,
        channels=1 if all(header.is_grey for header in whole) else 3,
        resize=options.resize or "crop",
    )
    shapes = {(header.height, header.width) for header in whole}

    def fill(folder: pathlib.Path | None) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, part in parts.items():
            images, labels, found = _decode_part(name, part, way, folder)
            fields |= {f"{name}_images": images, f"{name}_labels": labels}
            broken.update(found)
        _check_broken(source, broken)
        return {"about": {"notes": _notes(way, shapes, broken)}, **fields}

    if place is None:
        return fill(None)
    version = _version(source)
    picture_cache.remove_outdated(place, version)
    with picture_cache.filling(place / key) as folder:
        made = fill(folder)
        picture_cache.write_about(folder, version, made["about"])
    return picture_cache.read(place / key, version) or made


def _decode_part(
    name: str, part: Part, way: _Way, folder: pathlib.Path | None
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Decodes a part; returns images, labels, and reasons for those left out."""
    count = len(part.names)
    labels = np.asarray(part.labels, np.int32)
    images = picture_cache.allocate(folder, f"{name}_images", (count, *way.shape))

    def decode(file: IO[bytes], index: int) -> None:
        images[index] = pictures.read(file, way.shape, way.resize)

    results = _each(part, f"decoding photos to {name}", decode)
    reasons = {i: r for i, r in enumerate(results) if isinstance(r, str)}
    if len(reasons) == count:
        raise ValueError(f"There must be a whole picture to {name} with.")
    if reasons:
        kept = np.setdiff1d(np.arange(count), list(reasons))
        labels = labels[kept]
        shape = len(kept), *way.shape
        smaller = picture_cache.allocate(folder, f"{name}_images", shape)
        for start in range(0, len(kept), _AT_ONCE):
            rows = kept[start : start + _AT_ONCE]
            smaller[start : start + len(rows)] = images[rows]
        images = smaller
    if folder:
        np.save(folder / f"{name}_labels.npy", labels)
    return images, labels, {part.names[index]: r for index, r in reasons.items()}


def _without(part: Part, indices: Mapping[int, str]) -> Part:
    kept = [index for index in range(len(part.names)) if index not in indices]
    return Part(
        [part.names[index] for index in kept],
        [part.labels[index] for index in kept],
        lambda index: part.open(kept[index]),
    )


def _check_broken(source: Source, broken: Mapping[str, str]) -> None:
    if broken and not source.options.skip_broken:
        total = sum(len(part.names) for part in source.parts.values())
        total += len(source.broken)
        raise ValueError(
            f"{len(broken):,} of {total:,} pictures in {source.place} cannot be used: "
            f"{_named(broken)}; --skip-broken leaves them out."
        )


def _named(broken: Mapping[str, str]) -> str:
    shown = [f"{name} ({reason})" for name, reason in sorted(broken.items())[:_NAMED]]
    return ", ".join(shown + ["..."] * (len(broken) > _NAMED))


def _notes(
    way: _Way,
    shapes: set[tuple[int, int]],
    broken: Mapping[str, str],
) -> list[str]:
    notes = []
    if shapes - {(way.size, way.size)}:
        notes.append(
            f"pictures became {way.size}x{way.size} (--image-size; {way.resize}: "
            f"{pictures.RESIZES[way.resize]})"
        )
    if broken:
        notes.append(f"left out as broken, {len(broken):,}: {_named(broken)}")
    return notes


def _each(part: Part, what: str, work: Callable[[IO[bytes], int], Any]) -> list[Any]:
    """Does the same to the files of all pictures of a part, in threads.

    Returns:
      What the work returned; the reason, as a string, where it raised OSError.
    """

    def do(index: int) -> Any:
        try:
            with part.open(index) as file:
                return work(file, index)
        except OSError as error:
            return error.strerror or str(error)

    results: list[Any] = []
    count = len(part.names)
    pool = concurrent.futures.ThreadPoolExecutor(_cores())
    try:
        with pictures.quiet(), _progress(what, count) as advance:
            for start in range(0, count, _AT_ONCE):
                for result in pool.map(do, range(start, min(start + _AT_ONCE, count))):
                    results.append(result)
                    advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows a bar on a terminal; gives what moves it on by one."""
    from rich import console, progress

    terminal = console.Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(
        *columns, console=terminal, disable=not terminal.is_terminal, transient=True
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
