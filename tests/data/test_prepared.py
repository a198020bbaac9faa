import json
import pathlib
import shutil
import struct
import sys
import types

import filelock
import numpy as np
import pytest
import tensorflow_datasets as tfds

import shared_runs
import small_sets
from sgdat_jax.data import sources
from sgdat_jax.data.prepared_sets import prepared, tiny_imagenet


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return small_sets.tiny_imagenet(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def whole(published, tmp_path_factory):
    """A genuine folder of array_record files."""
    data_dir = tmp_path_factory.mktemp("prepared")
    prepared.prepare("tiny_imagenet", data_dir, small_sets.zipped(published))
    return data_dir


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def _rows(data, part):
    images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
    return sorted((i.tobytes(), int(n)) for i, n in zip(images, labels, strict=True))


def _same_examples(left, right):
    assert left.class_names == right.class_names
    assert left.train_labels.dtype == left.test_labels.dtype == np.int32
    for part in ("train", "test"):
        assert _rows(left, part) == _rows(right, part)


def test_prepared_set_is_the_published_one(published, whole):
    data = sources.load("tiny_imagenet", whole)
    assert data.name == "tiny_imagenet"
    _same_examples(data, tiny_imagenet.load(published))
    again = sources.load("tfds:tiny_imagenet", whole)
    np.testing.assert_array_equal(again.train_images, data.train_images)
    assert again.name == "tiny_imagenet"
    assert [path.name for path in whole.iterdir()] == ["tiny_imagenet"]


def test_prepared_set_is_kept(whole):
    place = whole / "tiny_imagenet" / "1.0.0"
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert prepared.prepare("tiny_imagenet", whole) == (place, False)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_what_a_killed_process_has_left_is_removed(published, tmp_path):
    place = tmp_path / "tiny_imagenet"
    left = place / "incomplete.AB12CD_1.0.0"
    others = ("incomplete.AB12CD_2.0.0", "incomplete.mine_1.0.0", "incomplete.AB12CD")
    for folder in (left, *(place / name for name in others)):
        folder.mkdir(parents=True)
        (folder / "features.json").write_text("{}")
    (place / "incomplete.ZZZZZZ_1.0.0").symlink_to(published)
    prepared.prepare("tiny_imagenet", tmp_path, published)
    kept = {".lock", "1.0.0", "incomplete.ZZZZZZ_1.0.0", *others}
    assert {path.name for path in place.iterdir()} == kept
    assert (published / "wnids.txt").exists()


def test_only_one_prepares_a_set(published, tmp_path):
    place = tmp_path / "tiny_imagenet"
    place.mkdir()
    with (
        filelock.FileLock(place / ".lock", is_singleton=False),
        pytest.raises(ValueError, match="another process is preparing it"),
    ):
        prepared.prepare("tiny_imagenet", tmp_path, published)
    (place / ".lock").unlink()
    (place / ".lock").symlink_to(published / "wnids.txt")
    with pytest.raises(ValueError, match="it is a symbolic link"):
        prepared.prepare("tiny_imagenet", tmp_path, published)
    assert (published / "wnids.txt").read_text()


def _frame(record):
    return struct.pack("<Q4x", len(record)) + record + bytes(4)


def _as_tfrecord(data_dir):
    """Rewrites a set's files in the other format, but for the checksums."""
    builder = tfds.builder("tiny_imagenet", data_dir=data_dir)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    for split, info in builder.info.splits.items():
        source = builder.as_data_source(split=split, deserialize_method=raw)
        (path,) = info.filepaths
        other = pathlib.Path(str(path).replace("array_record", "tfrecord"))
        other.write_bytes(b"".join(map(_frame, source)))
        path.unlink()
    description = pathlib.Path(builder.data_path, "dataset_info.json")
    text = description.read_text().replace("array_record", "tfrecord")
    description.write_text(text)


def test_tfrecord_is_read_without_tensorflow(copy, published):
    _as_tfrecord(copy)
    assert list(copy.rglob("*.tfrecord-*"))
    _same_examples(sources.load("tiny_imagenet", copy), tiny_imagenet.load(published))
    assert "tensorflow" not in sys.modules


def _add_split(data_dir, name, like):
    """Gives a set another split with the examples of one that it has."""
    place = data_dir / "tiny_imagenet" / "1.0.0"
    description = place / "dataset_info.json"
    values = json.loads(description.read_text())
    (split,) = (split for split in values["splits"] if split["name"] == like)
    values["splits"].append(split | {"name": name})
    description.write_text(json.dumps(values))
    (file,) = place.glob(f"*-{like}.*")
    shutil.copy(file, place / file.name.replace(f"-{like}.", f"-{name}."))


def test_test_images_are_those_of_validation_only_without_a_test_split(copy, published):
    _add_split(copy, "validation", "train")
    data = sources.load("tiny_imagenet", copy)
    _same_examples(data, tiny_imagenet.load(published))
    _replace("dataset_info.json", b'"test"', b'"held"')(copy)
    data = sources.load("tiny_imagenet", copy)
    assert _rows(data, "test") == _rows(data, "train")


def _file(data_dir, pattern):
    (path,) = data_dir.glob(f"tiny_imagenet/1.0.0/{pattern}")
    return path


def _cut(pattern, keep):
    def damage(data_dir):
        path = _file(data_dir, pattern)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])

    return damage


def _unlink(pattern):
    return lambda data_dir: _file(data_dir, pattern).unlink()


def _replace(pattern, old, new):
    def damage(data_dir):
        path = _file(data_dir, pattern)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return damage


def _cut_tfrecord(data_dir):
    _as_tfrecord(data_dir)
    _cut("*train*", 0.9)(data_dir)


def _tfrecord_without_last(data_dir):
    _as_tfrecord(data_dir)
    path = _file(data_dir, "*test*")
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    path.write_bytes(content[: 16 + length])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut("*train.array_record*", 0.5), "(train, example 0) is not a whole image"),
        (_cut("*test.array_record*", 0), "cannot be read"),
        (_unlink("*train.array_record*"), "cannot be read"),
        (_cut("dataset_info.json", 0.5), "cannot be opened"),
        (_unlink("dataset_info.json"), "is not prepared"),
        (_replace("dataset_info.json", b'"array_record"', b'"riegeli"'), "riegeli"),
        (_replace("dataset_info.json", b'"test"', b'"tset"'), "split test or validat"),
        (_replace("label.labels.txt", b"dog\n", b""), "labels must be in [0, 2)"),
        (_cut_tfrecord, "ends within a record"),
        (_tfrecord_without_last, "there must be 3 images, got 1"),
    ],
)
def test_damaged_set(copy, damage, reason):
    damage(copy)
    with pytest.raises(ValueError) as caught:
        sources.load("tiny_imagenet", copy)
    assert reason in str(caught.value)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def _builder(features, supervised_keys=None):
    info = types.SimpleNamespace(features=features, supervised_keys=supervised_keys)
    return types.SimpleNamespace(info=info, data_path="sets/odd/1.0.0")


def test_images_and_labels_are_what_a_set_says_they_are():
    image = tfds.features.Image(shape=(8, 8, 3))
    label = tfds.features.ClassLabel(num_classes=2)
    plain = {"image": image, "label": label}
    assert prepared._keys(_builder(plain)) == ("image", "label")
    features = {**plain, "seen": image, "kind": label}
    keys = ("seen", "kind")
    assert prepared._keys(_builder(features, supervised_keys=keys)) == keys


@pytest.mark.parametrize(
    "image",
    [
        tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16),
        tfds.features.Image(shape=(8, 8, 2)),
        tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8),
    ],
    ids=["16 bits", "2 channels", "no image"],
)
def test_images_of_another_kind_are_refused(image):
    features = {"image": image, "label": tfds.features.ClassLabel(num_classes=2)}
    with pytest.raises(
        ValueError, match=r"odd/1\.0\.0 must have grey or coloured uint8"
    ):
        prepared._keys(_builder(features))


def test_another_version(copy):
    (copy / "tiny_imagenet/1.0.0").rename(copy / "tiny_imagenet/0.9.0")
    with pytest.raises(
        ValueError, match=r"not prepared.*, but version 0\.9\.0 is; run"
    ):
        sources.load("tiny_imagenet", copy)


@pytest.mark.parametrize("installed", [False, True])
def test_what_to_do_when_nothing_is_prepared(tmp_path, monkeypatch, installed):
    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: installed)
    folder = tmp_path / "my sets"
    with pytest.raises(ValueError) as caught:
        sources.load("cifar10", folder)
    pip = "" if installed else "pip install 'sgdat-jax[tf]' && "
    assert str(caught.value) == (
        f"cifar10 is not prepared in {folder}/cifar10/3.0.2; run: {pip}"
        f"sgdat-jax data prepare cifar10 --data-dir '{folder}'"
    )
    with pytest.raises(ValueError) as caught:
        sources.load("tiny_imagenet", folder)
    assert str(caught.value).endswith(
        f"run: sgdat-jax data prepare tiny_imagenet --data-dir '{folder}' "
        "--from tiny-imagenet-200.zip"
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tfds:nosuch", "Dataset nosuch not found"),
        ("tfds:cifar10:nosuch", "BuilderConfig nosuch not found"),
        ("tfds:", "cannot be opened"),
        ("cifar_10", "the nearest is 'cifar10'"),
        ("", "unknown dataset ''"),
    ],
)
def test_unknown_set(tmp_path, name, reason):
    with pytest.raises(ValueError) as caught:
        sources.load(name, tmp_path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prepare_without_what_it_needs(tmp_path, monkeypatch, published):
    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: False)
    with pytest.raises(ValueError, match="preparing mnist needs TensorFlow"):
        prepared.prepare("mnist", tmp_path)
    with pytest.raises(
        ValueError, match=r"get tiny-imagenet-200\.zip and run sgdat-jax"
    ):
        prepared.prepare("tiny_imagenet", tmp_path)
    with pytest.raises(ValueError, match="none is missing"):
        prepared.prepare("tiny_imagenet", tmp_path, tmp_path / "none")
    root = shutil.copytree(published, tmp_path / "published")
    (root / "val/images/val_0.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"val_0\.JPEG is not a whole image"):
        prepared.prepare("tiny_imagenet", tmp_path / "new", root)
    assert not list(tmp_path.rglob("dataset_info.json"))


_ON_A_FULL_DISK = """
import resource, sys
from sgdat_jax.data.prepared_sets import prepared
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    prepared.prepare("tiny_imagenet", sys.argv[1], sys.argv[2])
except ValueError as error:
    print("refused:", error)
"""


def test_no_space_leaves_nothing_that_looks_whole(tmp_path, published):
    done = shared_runs.python("-c", _ON_A_FULL_DISK, str(tmp_path), str(published))
    (line,) = (s for s in done.stdout.splitlines() if s.startswith("refused: "))
    assert f"could not be prepared in {tmp_path}/tiny_imagenet/1.0.0: " in line
    assert not (tmp_path / "tiny_imagenet" / "1.0.0").exists()
    with pytest.raises(ValueError, match="is not prepared"):
        sources.load("tiny_imagenet", tmp_path)
