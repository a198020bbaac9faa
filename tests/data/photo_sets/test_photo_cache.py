"""The cache of what is decoded of a folder of photos."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import threading
from concurrent import futures

import filelock
import numpy as np
import pytest
from rich import console

import photo_folders as sets
from sgdat_jax.data import pictures
from sgdat_jax.data.photo_sets import photos


@pytest.fixture
def decoded(monkeypatch):
    """Counts pictures whose headers are read, and pictures that are decoded."""
    counts = {"read_header": 0, "read": 0}
    for name in counts:
        true = getattr(pictures, name)

        def count(*args, true=true, name=name):
            counts[name] += 1
            return true(*args)

        monkeypatch.setattr(pictures, name, count)
    return counts


def test_a_second_start_decodes_nothing(tmp_path, decoded):
    root = tmp_path / "pets"
    sets.folder(root)
    first = sets.load(root)
    assert decoded == {"read_header": 10, "read": 10}
    again = sets.load(root)
    assert decoded == {"read_header": 10, "read": 10}
    assert sets.rows(first) == sets.rows(again)
    assert first.notes == again.notes
    # What a run records, instead of None, is the same set.
    assert sets.rows(photos.load(root, first.options, tmp_path / "cache")) == sets.rows(
        first
    )
    assert decoded["read"] == 10
    sets.load(root, image_size=8)
    assert decoded["read"] == 20


@pytest.mark.parametrize("change", ["content", "time", "name", "new", "gone"])
def test_changed_photos_are_noticed(tmp_path, decoded, change):
    root = tmp_path / "pets"
    sets.folder(root)
    sets.load(root)
    file = root / "cat" / "0.png"
    if change == "content":
        sets.picture(file, 999, (10, 12))
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "name":
        file.rename(file.with_name("9.png"))
    elif change == "new":
        shutil.copy(file, file.with_name("9.png"))
    else:
        file.unlink()
    count = {"new": 11, "gone": 9}.get(change, 10)
    data = sets.load(root)
    assert decoded["read"] == 10 + count
    assert len(sets.rows(data)) == count
    (place,) = (tmp_path / "cache" / "pictures").iterdir()
    assert len([path for path in place.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("train_images.npy", b""), ("about.json", b"{"), ("about.json", b"{}")],
)
def test_a_damaged_cache_is_made_anew(tmp_path, decoded, name, content):
    root = tmp_path / "pets"
    sets.folder(root)
    rows = sets.rows(sets.load(root))
    (file,) = (tmp_path / "cache").rglob(name)
    file.write_bytes(content)
    stale = file.parent.with_name("0123456789abcdef.partial")
    stale.mkdir()
    strange = [file.parent.with_name(name) for name in ("x.partial", "about", "f" * 16)]
    for path in strange[:2]:
        path.mkdir()
        (path / "about.json").write_text('{"version": "mine"}')
    strange[2].write_text("mine")
    assert sets.rows(sets.load(root)) == rows
    assert decoded["read"] == 20
    assert not stale.exists()
    assert all(path.exists() for path in strange)


def _array(*shape):
    data = io.BytesIO()
    np.save(data, np.zeros(shape, np.uint8))
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train_images.npy", _array(8, 9, 9, 3)),  # of another size than the test part
        ("train_labels.npy", _array(3)),
        ("test_images.npy", _array(2)),
        ("about.json", {"about": {}}),
        ("about.json", {"about": [1]}),
        ("about.json", {"about": {"notes": None}}),
    ],
)
def test_a_cache_of_something_else_is_made_anew(tmp_path, decoded, name, content):
    root = tmp_path / "pets"
    sets.folder(root)
    first = sets.load(root)
    rows, notes = sets.rows(first), first.notes
    (file,) = (tmp_path / "cache").rglob(name)
    if isinstance(content, dict):
        content = json.dumps(json.loads(file.read_text()) | content).encode()
    file.write_bytes(content)
    again = sets.load(root)
    assert (sets.rows(again), again.notes) == (rows, notes)
    assert decoded["read"] == 20


def test_images_of_another_size_are_made_anew(tmp_path, decoded):
    root = tmp_path / "pets"
    sets.folder(root)
    rows = sets.rows(sets.load(root, image_size=8))
    for part, count in (("train", 8), ("test", 2)):
        (file,) = (tmp_path / "cache").rglob(f"{part}_images.npy")
        file.write_bytes(_array(count, 9, 9, 3))
    assert sets.rows(sets.load(root, image_size=8)) == rows
    assert decoded["read"] == 20


def test_another_process_is_waited_for_and_named(tmp_path, monkeypatch):
    root = tmp_path / "pets"
    sets.folder(root)
    rows = sets.rows(sets.load(root))
    waits, said = threading.Event(), []

    def status(terminal, text):
        said.append(str(text))
        waits.set()
        return contextlib.nullcontext()

    monkeypatch.setattr(console.Console, "status", status)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    (lock,) = (tmp_path / "cache").rglob("lock")
    with futures.ThreadPoolExecutor(1) as pool:
        with filelock.FileLock(lock):
            loaded = pool.submit(sets.load, root)
            assert waits.wait(60)
            assert not loaded.done()
        assert sets.rows(loaded.result()) == rows
    assert said == ["waiting for another process that decodes pets"]


def test_folders_of_one_name_are_apart(tmp_path):
    for number, place in enumerate(("a", "b")):
        sets.folder(tmp_path / place / "pets", (f"x{number}", "y"))
    names = [
        sets.load(tmp_path / place / "pets", tmp_path / "cache").class_names
        for place in ("a", "b")
    ]
    assert names == [("x0", "y"), ("x1", "y")]


def test_the_users_cache(tmp_path, monkeypatch):
    sets.folder(tmp_path / "pets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data = photos.load(tmp_path / "pets")
    filename = pathlib.Path(data.train_images.filename)
    assert filename.is_relative_to(tmp_path / "xdg" / "sgdat_jax" / "pictures")


def test_without_a_cache_images_are_in_memory(tmp_path, monkeypatch):
    root = tmp_path / "pets"
    sets.folder(root)
    sets.break_some(root)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    data = photos.load(root, pictures.Options(skip_broken=True))
    assert not isinstance(data.train_images, np.memmap)
    assert sets.rows(data) == sets.rows(sets.load(root, skip_broken=True))
    with pytest.raises(ValueError, match="data_dir must be a folder that can be wr"):
        photos.load(root, cache=tmp_path / "file")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    sets.folder(tmp_path / "pets")
    monkeypatch.setattr(os, "posix_fallocate", full)
    message = "cannot be kept in .*: No space left on device; data_dir may name another"
    with pytest.raises(ValueError, match=message):
        sets.load(tmp_path / "pets")
    assert not list((tmp_path / "cache").rglob("*.partial"))
