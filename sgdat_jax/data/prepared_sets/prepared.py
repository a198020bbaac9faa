"""Data sets that tensorflow-datasets prepares, read without TensorFlow."""

import contextlib
import importlib.util
import io
import os
import pathlib
import re
import shlex
import struct
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from sgdat_jax import files, loggers
from sgdat_jax.data import dataset, decoding
from sgdat_jax.data.prepared_sets import feature_classes, tiny_imagenet

PREFIX = "tfds:"
_LOCK = ".lock"  # in the folder of a set's versions
# What tensorflow-datasets calls a version that is not finished.
_INCOMPLETE = re.compile(r"incomplete\.[A-Z0-9]{6}_", re.ASCII)
_AT_ONCE = 1000  # records; one at a time, reading takes twice as long
_PARTS = {"train": ("train",), "test": ("test", "validation")}  # splits, best first


def load(name: str, data_dir: str | pathlib.Path | None = None) -> dataset.Dataset:
    """Returns an image classification set that is prepared on disk.

    Both formats of tensorflow-datasets are read, array_record and tfrecord, without
    TensorFlow. The test part is the split ``test``, or else ``validation``.

    Args:
      name: name in tensorflow-datasets, such as ``cifar10``, or
        ``tfds:<name>[:<config>]``.
      data_dir: folder of prepared sets; None: tensorflow-datasets' own.

    Raises:
      ValueError: if there is no such set, if it is not prepared in this version or is
        damaged, if its images are not uint8 of one size with a class each, or if its
        files name classes that are not tensorflow-datasets' own. Where preparing helps,
        the message has the command.
    """
    builder = _builder(name, data_dir)
    _check_prepared(builder, name, data_dir)
    place = os.fspath(builder.data_path)
    image_key, label_key = _keys(builder)
    fields: dict[str, Any] = {}
    with _damage_as_value_error(place):
        for part, splits in _PARTS.items():
            split = next((s for s in splits if s in builder.info.splits), None)
            if split is None:
                raise ValueError(
                    f"{place} must have a split {' or '.join(splits)}, got "
                    f"{', '.join(builder.info.splits) or 'none'}."
                )
            examples = (
                decoding.Example(
                    f"{place} ({split}, example {number})",
                    example[image_key],
                    example[label_key],
                )
                for number, example in enumerate(
                    _examples(builder, split, image_key, label_key)
                )
            )
            fields[f"{part}_images"], fields[f"{part}_labels"] = decoding.read(
                examples,
                builder.info.splits[split].num_examples,
                builder.info.features[image_key].shape[-1],
            )
    names = tuple(builder.info.features[label_key].names)
    data = dataset.Dataset(name.removeprefix(PREFIX), **fields, class_names=names)
    return dataset.checked(data, lambda field: f"{place} ({field})")


def prepare(
    name: str,
    data_dir: str | pathlib.Path | None = None,
    source: str | pathlib.Path | None = None,
) -> tuple[pathlib.Path, bool]:
    """Prepares a set as array_record, unless that is done already.

    What is written gets its name only when it is whole.

    Args:
      name: as in `load`.
      data_dir: as in `load`.
      source: for ``tiny_imagenet`` its zip or folder; for sets that
        tensorflow-datasets cannot download the folder with their files.

    Returns:
      The folder of the prepared set, and whether it was prepared just now.

    Raises:
      ValueError: if that fails, with the reason.
    """
    builder = _builder(name, data_dir)
    place = pathlib.Path(builder.data_path)
    if _is_prepared(builder):
        return place, False
    if name == tiny_imagenet.NAME:
        if source is None:
            raise ValueError(
                f"{name} cannot be downloaded: get tiny-imagenet-200.zip and run "
                f"{_command(name, data_dir)}."
            )
        tiny_imagenet.listing(tiny_imagenet.open_files(source))
        builder.source, source = pathlib.Path(source), None
    elif not _has_tensorflow():
        raise ValueError(
            f"preparing {name} needs TensorFlow (pip install 'sgdat-jax[tf]'); run "
            f"{_command(name, data_dir)} after that."
        )
    if source is not None and not pathlib.Path(source).is_dir():
        raise ValueError(f"{source} must be a folder with the files of {name}.")
    try:
        with _alone(place):
            _download_and_prepare(builder, source)
    except Exception as error:  # of TensorFlow, of the network, of the disk
        raise ValueError(
            f"{name} could not be prepared in {place}: {_reason(error)}"
        ) from error
    return place, True


@contextlib.contextmanager
def _alone(place: pathlib.Path) -> Iterator[None]:
    """Removes what killed processes have left of a set, and keeps others away.

    Raises:
      ValueError: if another process prepares the set.
    """
    import filelock

    made = files.make([place.parent], "data_dir")
    lock = place.parent / _LOCK
    files.check_no_link(lock)
    try:
        with filelock.FileLock(lock, blocking=False):
            try:
                for path in files.entries(place.parent):
                    version = _INCOMPLETE.sub("", path.name)
                    if version == place.name != path.name and files.is_folder(path):
                        files.remove(path)
                yield
            except BaseException:
                if made:
                    lock.unlink(missing_ok=True)
                raise
    except filelock.Timeout:
        raise ValueError("another process is preparing it") from None
    finally:
        files.remove_empty(made)


def _download_and_prepare(builder: Any, manual_dir: str | pathlib.Path | None) -> None:
    import tensorflow_datasets as tfds

    if _has_tensorflow():
        import tensorflow as tf

        # It would take the memory of every GPU at its first use.
        tf.config.set_visible_devices([], "GPU")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    settings = tfds.download.DownloadConfig(manual_dir=manual_dir)
    with (
        loggers.quiet(),
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory() as unused,
    ):
        builder.download_and_prepare(
            # Without downloads their folder would stay behind, empty.
            download_dir=unused if builder.name == tiny_imagenet.NAME else None,
            file_format="array_record",
            download_config=settings,
        )


def _builder(name: str, data_dir: str | pathlib.Path | None) -> Any:
    try:
        import tensorflow_datasets as tfds

        if name == tiny_imagenet.NAME:
            from sgdat_jax.data.prepared_sets import (
                tiny_imagenet_builder,  # noqa: F401
            )
    except ImportError as error:
        raise ValueError(
            f"{name} needs {error.name}: pip install 'sgdat-jax[train]'"
        ) from error
    set_name, _, config = name.removeprefix(PREFIX).partition(":")
    feature_classes.check(set_name, config, data_dir)
    try:
        with loggers.quiet():
            return tfds.builder(
                f"{set_name}/{config}" if config else set_name, data_dir=data_dir
            )
    except Exception as error:
        place = "" if data_dir is None else f" ({data_dir})"
        raise ValueError(f"{name} cannot be opened{place}: {_reason(error)}") from error


def _check_prepared(
    builder: Any, name: str, data_dir: str | pathlib.Path | None
) -> None:
    if _is_prepared(builder):
        return
    place = pathlib.Path(builder.data_path)
    others = sorted(
        path.parent.name for path in place.parent.glob("*/dataset_info.json")
    )
    held = f", but version {', '.join(others)} is" if others else ""
    first = ""
    if name != tiny_imagenet.NAME and not _has_tensorflow():
        first = "pip install 'sgdat-jax[tf]' && "
    raise ValueError(
        f"{name} is not prepared in {place}{held}; run: "
        f"{first}{_command(name, data_dir)}"
    )


def _is_prepared(builder: Any) -> bool:
    with loggers.quiet():
        return builder.is_prepared()


def _command(name: str, data_dir: str | pathlib.Path | None) -> str:
    words = ["sgdat-jax", "data", "prepare", name]
    if data_dir is not None:
        words += ["--data-dir", os.fspath(data_dir)]
    if name == tiny_imagenet.NAME:
        words += ["--from", "tiny-imagenet-200.zip"]
    return shlex.join(words)


def _keys(builder: Any) -> tuple[str, str]:
    """Returns the names of the features with the image and its class."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features)
    keys = builder.info.supervised_keys or ("image", "label")
    image, label = (features.get(key) for key in keys[:2])
    if not (
        isinstance(image, tfds.features.Image)
        and np.dtype(image.np_dtype) == np.uint8
        and image.shape[-1] in decoding.MODES
        and isinstance(label, tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"{builder.data_path} must have grey or coloured uint8 images with a class "
            f"each, got the features {', '.join(features)}."
        )
    return keys[0], keys[1]


def _examples(
    builder: Any, split: str, image_key: str, label_key: str
) -> Iterator[dict[str, Any]]:
    """Yields the examples of a split: the image as bytes, and the label.

    Other features are left out. tensorflow-datasets would decode them, and its decoder
    of images takes every format of Pillow, even those that start other programs.
    """
    import tensorflow_datasets as tfds

    keys = (image_key, label_key)
    features = tfds.features.FeaturesDict({k: builder.info.features[k] for k in keys})
    decoders = {image_key: tfds.decode.SkipDecoding()}
    for record in _records(builder, split):
        yield features.deserialize_example_np(record, decoders=decoders)


def _records(builder: Any, split: str) -> Iterator[bytes]:
    """Yields the serialized examples of a split."""
    import tensorflow_datasets as tfds

    if builder.info.file_format.value == "array_record":
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = builder.as_data_source(split=split, deserialize_method=raw)
        for start in range(0, len(source), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(source))
            yield from source.__getitems__(list(range(start, stop)))
    elif builder.info.file_format.value == "tfrecord":
        for path in builder.info.splits[split].filepaths:
            yield from _tfrecords(pathlib.Path(path))
    else:
        raise ValueError(
            "the format must be array_record or tfrecord, got "
            f"{builder.info.file_format.value}."
        )


def _tfrecords(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of a file.

    Each is framed by its length (8 bytes, little-endian) and checksums of 4 bytes, one
    after the length and one after the record. They are not looked at: PNG files have
    their own, and a wrong length comes out at the end of the file.

    References:
      https://www.tensorflow.org/tutorials/load_data/tfrecord
    """
    with files.open_regular(path) as file:
        left = os.fstat(file.fileno()).st_size
        while left:
            head = file.read(12)
            length = struct.unpack_from("<Q", head)[0] if len(head) == 12 else left
            left -= 12 + length + 4
            if left < 0:
                raise ValueError(f"{path} ends within a record.")
            yield file.read(length)
            file.seek(4, os.SEEK_CUR)


@contextlib.contextmanager
def _damage_as_value_error(place: str) -> Iterator[None]:
    """Turns whatever reading damaged files raises into one line with their folder."""
    try:
        yield
    except ValueError as error:
        reason = _reason(error)
        raise ValueError(reason if place in reason else f"{place}: {reason}") from error
    except Exception as error:
        raise ValueError(f"{place} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Returns the first line of an error, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" :.") if lines else type(error).__name__


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None
