import os
import pickle

import numpy as np
import pytest

import small_sets
from sgdat_jax.data import arrays, sources


@pytest.mark.parametrize("label_dtype", [np.uint8, np.int64, ">i4"])
def test_arrays_come_back_from_disk(tmp_path, label_dtype):
    made = small_sets.arrays(tmp_path)
    np.save(tmp_path / "train_labels.npy", made["train_labels"].astype(label_dtype))
    data = sources.load(f"{tmp_path}/")
    assert isinstance(data.train_images, np.memmap)
    assert not data.train_images.flags.writeable
    for name, array in made.items():
        np.testing.assert_array_equal(getattr(data, name), array)
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert (data.name, data.class_names) == (tmp_path.name, ("0", "1", "2"))


def test_the_folder_one_is_in_has_its_own_name(tmp_path, monkeypatch):
    small_sets.arrays(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert arrays.load(".").name == tmp_path.name


def test_class_names(tmp_path):
    small_sets.arrays(tmp_path)
    (tmp_path / "class_names.txt").write_text("Katze\nHündin\nyak\n", "utf-8")
    assert arrays.load(tmp_path).class_names == ("Katze", "Hündin", "yak")


def test_class_names_of_another_system(tmp_path):
    small_sets.arrays(tmp_path)
    (tmp_path / "class_names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\nyak\r\n")
    assert arrays.load(tmp_path).class_names == ("cat", "dog", "yak")


def _save(name, make):
    def damage(folder, made):
        np.save(folder / f"{name}.npy", make(made[name]))

    return damage


def _write(name, change):
    def damage(folder, made):
        path = folder / name
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))

    return damage


def _with(index, value):
    def make(array):
        array = array.copy()
        array[index] = value
        return array

    return make


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (
            lambda folder, made: (folder / "test_labels.npy").unlink(),
            "test_labels.npy",
            "is missing",
        ),
        (_write("train_images.npy", lambda b: b[:-1]), "train_images", "not a whole"),
        (_write("train_images.npy", lambda b: b[:60]), "train_images", "not a whole"),
        (_write("train_labels.npy", lambda b: b""), "train_labels", "not a whole"),
        (_write("test_images.npy", lambda b: b"PK" + b), "test_images", "not a whole"),
        (
            _write("train_labels.npy", lambda b: pickle.dumps([0, 1])),
            "train_labels.npy",
            "not a whole",
        ),
        (
            _save("train_labels", lambda a: a.astype(object)),
            "train_labels.npy",
            "Python objects",
        ),
        (_save("train_labels", _with(5, 10**9)), "train_labels", "got 1000000000"),
        (_save("train_labels", _with(5, -1)), "train_labels", "got -1 at index 5"),
        (_save("test_labels", _with(2, 3)), "test_labels", "in [0, 3), got 3 at index"),
        (_save("test_labels", lambda a: a / 2), "test_labels", "got float64"),
        (_save("train_labels", lambda a: a * np.nan), "train_labels", "got float64"),
        (_save("train_labels", lambda a: a[0]), "train_labels", "shape ()"),
        (_save("train_labels", lambda a: a[:, None]), "train_labels", "shape (12, 1)"),
        (_save("train_labels", lambda a: a[:-1]), "train_labels", "11 labels for 12"),
        (_save("train_labels", lambda a: 2 * a), "train_labels", "none of class 1"),
        (_save("test_images", lambda a: a / 255), "test_images", "got float64"),
        (_save("train_images", lambda a: a[..., 0]), "train_images", "(12, 8, 8)"),
        (_save("test_images", lambda a: a[:0]), "test_images", "(0, 8, 8, 3)"),
        (_save("test_images", lambda a: a[:, 1:]), "test_images", "got (7, 8, 3)"),
        (_write("class_names.txt", lambda b: b"a\nb\n"), "train_labels", "got 2 at"),
        (_write("class_names.txt", lambda b: b"a\n\nb"), "class_names", "each line"),
        (_write("class_names.txt", lambda b: b"a\nb\na"), "class_names", "each line"),
        (_write("class_names.txt", lambda b: b"\xff"), "class_names", "cannot be"),
        (
            _write("class_names.txt", lambda b: b"a\nb\x1b[2J\nc"),
            "class_names",
            r"no control characters or surrogates, got 'b\x1b[2J'",
        ),
        (
            _write("class_names.txt", lambda b: b"a\nb\nc\nd"),
            "train_labels",
            "none of class 3 (d)",
        ),
    ],
)
def test_bad_arrays(tmp_path, damage, file, reason):
    damage(tmp_path, small_sets.arrays(tmp_path))
    with pytest.raises(ValueError) as caught:
        arrays.load(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path}/{file}" in message
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "header",
    [
        9000 * "(",
        "{'descr': '''|u1', ",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4,), }",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30},), }}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }",
        "{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (1,), }",
    ],
)
def test_headers_that_do_harm(tmp_path, header):
    small_sets.arrays(tmp_path)
    file = tmp_path / "train_images.npy"
    size = len(header).to_bytes(4, "little")
    file.write_bytes(b"\x93NUMPY\x02\x00" + size + header.encode())
    with pytest.raises(ValueError, match=r"is not a whole \.npy file: ") as caught:
        arrays.load(tmp_path)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["test_images.npy", "class_names.txt"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    small_sets.arrays(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="it is not a regular file") as caught:
        arrays.load(tmp_path)
    assert name in str(caught.value)


def test_no_folder(tmp_path):
    for path in (tmp_path / "none", __file__):
        with pytest.raises(ValueError, match="is not a folder of arrays"):
            arrays.load(path)
