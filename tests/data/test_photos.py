"""Folders of photos, and the cache of what is decoded of them."""

import io
import os
import pathlib
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

import small_sets
from benchmarks import strangers
from sgdat_jax.data import pictures, sources
from sgdat_jax.data.photo_sets import photos, picture_sets


def _picture(path, number, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    shape = size[::-1] if mode == "L" else (*size[::-1], len(mode))
    pixels = rng.integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def _folder(root, classes=("cat", "dog"), count=5, prefix="", **options):
    """Writes a folder of photos; returns pixels by path."""
    made = {}
    for number, name in enumerate(classes):
        for index in range(count):
            path = f"{prefix}{name}/{index}.png"
            made[path] = _picture(root / path, 100 * number + index, **options)
    return made


def _load(root, cache=None, **options):
    return photos.load(
        root, pictures.Options(**options), cache or root.parent / "cache"
    )


def _rows(data):
    """Each image of a set with its part and label."""
    return sorted(
        (part, int(label), image.tobytes())
        for part in ("train", "test")
        for image, label in zip(
            getattr(data, f"{part}_images"),
            getattr(data, f"{part}_labels"),
            strict=True,
        )
    )


def test_train_and_test_folders(tmp_path):
    root = tmp_path / "pets"
    train = _folder(root, ("dog", "cat"), 3, "train/", size=(10, 10))
    test = _folder(root, ("cat", "dog"), 2, "test/", size=(10, 10))
    data = _load(root)
    assert (data.name, data.class_names) == ("pets", ("cat", "dog"))
    expected = [
        (part, data.class_names.index(path.split("/")[1]), pixels.tobytes())
        for part, made in (("train", train), ("test", test))
        for path, pixels in made.items()
    ]
    assert _rows(data) == sorted(expected)
    assert data.options == pictures.Options(None, 10, "crop")
    assert data.notes == ()
    for field in ("train_images", "test_images"):
        assert isinstance(getattr(data, field), np.memmap)
        assert not getattr(data, field).flags.writeable


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Test"])
def test_other_names_of_the_test_folder(tmp_path, name):
    _folder(tmp_path / "pets", count=2, prefix="train/")
    _folder(tmp_path / "pets", count=1, prefix=f"{name}/")
    assert len(_load(tmp_path / "pets").test_images) == 2


def test_test_comes_before_val(tmp_path):
    root = tmp_path / "pets"
    for prefix, count in (("train/", 2), ("val/", 3), ("test/", 1)):
        _folder(root, count=count, prefix=prefix)
    data = _load(root)
    assert len(data.test_images) == 2
    assert "val/ is not used" in data.notes


def test_accents_apart_from_their_letters_are_the_same_class(tmp_path):
    root = tmp_path / "pets"
    together = unicodedata.normalize("NFC", "b\u00e9b\u00e9")
    apart = unicodedata.normalize("NFD", together)
    _folder(root, (together, apart, "dog"), 2, "train/")
    _folder(root, (apart, "dog"), 1, "test/")
    data = _load(root)
    assert data.class_names == (together, "dog")
    assert np.bincount(data.train_labels).tolist() == [4, 2]
    assert np.bincount(data.test_labels).tolist() == [1, 1]


def test_a_name_that_is_not_utf8_can_be_shown(tmp_path):
    root = tmp_path / "pets"
    names = [os.fsdecode(name) for name in (b"a\xfe", b"a\xff")]
    _folder(root, names)
    data = _load(root)
    assert data.class_names == (r"a\xfe", r"a\xff")
    assert np.bincount(data.train_labels).tolist() == [4, 4]


def test_folders_of_one_name_but_for_capitals_are_told(tmp_path):
    root = tmp_path / "pets"
    for prefix in ("train/", "Train/", "test/", "TEST/"):
        _folder(root, count=1, prefix=prefix)
    notes = _load(root).notes
    assert {"Train/ is not used", "TEST/ is not used"} <= set(notes)


def test_train_alone_is_divided_and_may_be_a_class(tmp_path):
    _folder(tmp_path / "one", prefix="train/")
    assert _load(tmp_path / "one").class_names == ("cat", "dog")
    _folder(tmp_path / "two", classes=("car", "train"))
    assert _load(tmp_path / "two").class_names == ("car", "train")


def test_division_is_by_names_alone(tmp_path):
    root, again = tmp_path / "a" / "pets", tmp_path / "b" / "pets"
    made = _folder(root, count=20)
    for path in reversed(made):  # in another order, at other times, in another place
        (again / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, again / path)
    data = _load(root)
    assert _rows(data) == _rows(_load(again))
    assert np.bincount(data.test_labels).tolist() == [4, 4]
    assert "20% of each class, chosen by file names, are to test" in data.notes
    assert data.options.test_share == 0.2
    # The division is part of every result.
    names = [(path, 0) for path in made]
    chosen = {path for path, _ in picture_sets.held_out(names[:20], 0.2)["test"]}
    assert chosen == {"cat/0.png", "cat/10.png", "cat/7.png", "cat/8.png"}


def test_a_new_photo_hardly_changes_the_division():
    names = [(f"cat/{number}.jpg", 0) for number in range(100)]
    before = picture_sets.held_out(names[:99], 0.2)["test"]
    after = picture_sets.held_out(names, 0.2)["test"]
    assert len(set(before) ^ set(after)) <= 2
    composed, apart = "caf\u00e9.jpg", "cafe\u0301.jpg"
    assert picture_sets._rank((composed, 0)) == picture_sets._rank((apart, 0))


@pytest.mark.parametrize(
    ("count", "share", "tests"),
    [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 3), (10, 0.5, 5)],
)
def test_share_of_each_class(tmp_path, count, share, tests):
    _folder(tmp_path / "pets", count=count)
    data = _load(tmp_path / "pets", test_share=share)
    assert np.bincount(data.test_labels).tolist() == [tests, tests]
    assert len(data.train_images) == 2 * (count - tests)


def test_default_size_is_the_median_side(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    _folder(small, count=2, size=(40, 30))
    _picture(small / "cat" / "outlier.png", 7, size=(500, 400))
    assert _load(small).input_shape == (30, 30, 3)
    _folder(large, count=2, size=(80, 90))
    data = _load(large)
    assert data.input_shape == (64, 64, 3)
    assert any("pictures became 64x64" in note for note in data.notes)
    assert _load(large, image_size=96).input_shape == (96, 96, 3)


def test_squash_is_another_set(tmp_path):
    _folder(tmp_path / "pets", size=(40, 10))
    crop = _load(tmp_path / "pets")
    squash = _load(tmp_path / "pets", resize="squash")
    assert crop.input_shape == squash.input_shape
    assert _rows(crop) != _rows(squash)


def test_grey_stays_grey_until_one_is_in_colour(tmp_path):
    made = _folder(tmp_path / "pets", size=(10, 10), mode="L")
    data = _load(tmp_path / "pets")
    assert data.input_shape == (10, 10, 1)
    assert {pixels for *_, pixels in _rows(data)} == {
        p.tobytes() for p in made.values()
    }
    _picture(tmp_path / "pets" / "dog" / "x.png", 9, (10, 10))
    assert _load(tmp_path / "pets").input_shape == (10, 10, 3)


def test_what_lies_about(tmp_path):
    root = tmp_path / "pets"
    _folder(root, count=3)
    _picture(root / "cat" / "LOUD.JPG", 50)
    _picture(root / "dog" / "deep" / "down" / "er.Png", 51)
    _picture(root / "cat" / ".hidden.png", 52)
    _picture(root / "dog" / "._3.png", 53)
    _picture(root / ".trash" / "x.png", 54)
    _picture(root / "__MACOSX" / "x.png", 55)
    _picture(root / "beside.png", 56)
    (root / "cat" / "notes.txt").write_text("mine")
    (root / "cat" / "Thumbs.db").write_text("")
    outside = tmp_path / "outside"
    _picture(outside / "linked.png", 57)
    _picture(outside / "bird" / "in a linked folder.png", 58)
    (root / "cat" / "link.png").symlink_to(outside / "linked.png")
    (root / "dog" / "loop").symlink_to(root)
    (root / "elk").symlink_to(outside / "bird")
    before = strangers.contents(tmp_path)
    data = _load(root)
    assert data.class_names == ("cat", "dog", "elk")
    counts = np.bincount(data.train_labels) + np.bincount(data.test_labels, minlength=3)
    assert counts.tolist() == [5, 4, 1]
    (note,) = (n for n in data.notes if "no pictures" in n)
    assert all(n in note for n in ("cat/Thumbs.db", "cat/notes.txt", "beside.png"))
    assert before.items() <= strangers.contents(tmp_path).items()
    assert set(strangers.contents(root)) == {
        name.removeprefix("pets/") for name in before if name.startswith("pets/")
    }


def _torn_jpeg():
    """Half a JPEG file, whose header is whole."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()[: file.tell() // 2]


def _break(root):
    """Puts pictures that cannot be used into a folder; returns reasons by path."""
    frames = [Image.new("RGB", (9, 9), (value, 0, 0)) for value in (9, 99)]
    frames[0].save(root / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    (root / "cat" / "b.jpg").write_bytes(b"")
    (root / "cat" / "c.jpeg").write_bytes(_torn_jpeg())
    (root / "cat" / "d.heic").write_bytes(b"x")
    (root / "cat" / "e.png").symlink_to("nowhere")
    os.mkfifo(root / "dog" / "f.png")
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "EPS")
    (root / "dog" / "g.jpg").write_bytes(eps.getvalue())
    return {
        "cat/a.gif": "it has 2 frames, not one",
        "cat/b.jpg": "its format must be one of",
        "cat/d.heic": "its format must be one of",
        "cat/e.png": "No such file or directory",
        "dog/f.png": "it is not a regular file",
        "dog/g.jpg": "its format must be one of",
        "cat/c.jpeg": "truncated",  # found when it is decoded
    }


def test_broken_pictures_are_named_and_refused(tmp_path):
    root = tmp_path / "pets"
    _folder(root, count=3)
    reasons = _break(root)
    with pytest.raises(ValueError, match=r"6 of 13 pictures in .*--skip-broken") as c:
        _load(root)
    assert "\n" not in str(c.value)
    for path in list(reasons)[:3]:
        assert f"{path} ({reasons[path]}" in str(c.value)
    for path in list(reasons)[:-1]:
        (root / path).unlink()
    with pytest.raises(ValueError, match=r"1 of 7 .*cat/c.jpeg \(.*truncated"):
        _load(root)


def test_broken_pictures_are_left_out(tmp_path):
    root = tmp_path / "pets"
    made = _folder(root, count=6, size=(10, 10))
    _break(root)
    for cache in (tmp_path / "cache", tmp_path / "cache", tmp_path / "other"):
        data = _load(root, cache, skip_broken=True)
        found = {pixels for *_, pixels in _rows(data)}
        assert found == {pixels.tobytes() for pixels in made.values()}
        (note,) = (n for n in data.notes if "broken" in n)
        assert note.startswith("left out as broken, 7: cat/a.gif (it has 2 frames")


def test_broken_pictures_alone(tmp_path):
    root = tmp_path / "pets"
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_torn_jpeg())
    with pytest.raises(ValueError, match="There must be a whole picture to train with"):
        _load(root, skip_broken=True)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="There must be a whole picture to train with"):
        _load(root, skip_broken=True)


def test_a_class_of_broken_pictures_alone(tmp_path):
    root = tmp_path / "pets"
    _folder(root, count=3)
    (root / "elk").mkdir()
    (root / "elk" / "x.jpg").write_bytes(_torn_jpeg())
    with pytest.raises(ValueError, match=r"none of class 2 \(elk\)"):
        _load(root, skip_broken=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "it has no folders of classes with pictures in them"),
        (lambda root: _picture(root / "a.png", 0), "it has no folders of classes"),
        (
            lambda root: [
                (root / "cat").mkdir(),
                (root / "cat" / "a.heic").write_bytes(b"x"),
            ],
            r"got cat/a.heic \(its format must be one of",
        ),
        (
            lambda root: [
                _folder(root),
                (root / "elk").mkdir(),
                (root / "elk" / "a.heic").write_bytes(b"x"),
            ],
            r"1 of 11 pictures .* elk/a.heic \(its format must be one of",
        ),
        (lambda root: _folder(root, ("cat",)), "two or more classes, got cat"),
        (
            lambda root: [_folder(root), (root / "elk").mkdir()],
            "pets/elk must hold a picture",
        ),
        (
            lambda root: [
                _folder(root, prefix="train/"),
                _folder(root, ("cat", "elk"), prefix="val/"),
            ],
            "pets/val/elk is of no class in .*pets/train",
        ),
        (
            lambda root: [_folder(root, prefix="train/"), (root / "test").mkdir()],
            "pets/test must hold pictures of classes",
        ),
        (lambda root: _folder(root, count=1), "A class must have two pictures"),
    ],
)
def test_refused_folders(tmp_path, make, message):
    (tmp_path / "pets").mkdir()
    make(tmp_path / "pets")
    with pytest.raises(ValueError, match=message) as caught:
        _load(tmp_path / "pets")
    assert "\n" not in str(caught.value)


def test_test_share_beside_a_test_folder(tmp_path):
    _folder(tmp_path / "pets", prefix="train/")
    _folder(tmp_path / "pets", prefix="test/")
    with pytest.raises(ValueError, match="test_share is for folders without"):
        _load(tmp_path / "pets", test_share=0.3)


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
    _folder(root)
    first = _load(root)
    assert decoded == {"read_header": 10, "read": 10}
    again = _load(root)
    assert decoded == {"read_header": 10, "read": 10}
    assert _rows(first) == _rows(again)
    assert first.notes == again.notes
    # What a run records, instead of None, is the same set.
    assert _rows(photos.load(root, first.options, tmp_path / "cache")) == _rows(first)
    assert decoded["read"] == 10
    _load(root, image_size=8)
    assert decoded["read"] == 20


@pytest.mark.parametrize("change", ["content", "time", "name", "new", "gone"])
def test_changed_photos_are_noticed(tmp_path, decoded, change):
    root = tmp_path / "pets"
    _folder(root)
    _load(root)
    file = root / "cat" / "0.png"
    if change == "content":
        _picture(file, 999, (10, 12))
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "name":
        file.rename(file.with_name("9.png"))
    elif change == "new":
        shutil.copy(file, file.with_name("9.png"))
    else:
        file.unlink()
    count = {"new": 11, "gone": 9}.get(change, 10)
    data = _load(root)
    assert decoded["read"] == 10 + count
    assert len(_rows(data)) == count
    (place,) = (tmp_path / "cache" / "pictures").iterdir()
    assert len([path for path in place.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("train_images.npy", b""), ("about.json", b"{"), ("about.json", b"{}")],
)
def test_a_damaged_cache_is_made_anew(tmp_path, decoded, name, content):
    root = tmp_path / "pets"
    _folder(root)
    rows = _rows(_load(root))
    (file,) = (tmp_path / "cache").rglob(name)
    file.write_bytes(content)
    stale = file.parent.with_name("0123456789abcdef.partial")
    stale.mkdir()
    strange = [file.parent.with_name(name) for name in ("x.partial", "about", "f" * 16)]
    for path in strange[:2]:
        path.mkdir()
        (path / "about.json").write_text('{"version": "mine"}')
    strange[2].write_text("mine")
    assert _rows(_load(root)) == rows
    assert decoded["read"] == 20
    assert not stale.exists()
    assert all(path.exists() for path in strange)


def test_folders_of_one_name_are_apart(tmp_path):
    for number, place in enumerate(("a", "b")):
        _folder(tmp_path / place / "pets", (f"x{number}", "y"))
    names = [
        _load(tmp_path / place / "pets", tmp_path / "cache").class_names
        for place in ("a", "b")
    ]
    assert names == [("x0", "y"), ("x1", "y")]


def test_the_users_cache(tmp_path, monkeypatch):
    _folder(tmp_path / "pets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data = photos.load(tmp_path / "pets")
    filename = pathlib.Path(data.train_images.filename)
    assert filename.is_relative_to(tmp_path / "xdg" / "sgdat_jax" / "pictures")


def test_without_a_cache_images_are_in_memory(tmp_path, monkeypatch):
    root = tmp_path / "pets"
    _folder(root)
    _break(root)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    data = photos.load(root, pictures.Options(skip_broken=True))
    assert not isinstance(data.train_images, np.memmap)
    assert _rows(data) == _rows(_load(root, skip_broken=True))
    with pytest.raises(ValueError, match="data_dir must be a folder that can be wr"):
        photos.load(root, cache=tmp_path / "file")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    _folder(tmp_path / "pets")
    monkeypatch.setattr(os, "posix_fallocate", full)
    message = "cannot be kept in .*: No space left on device; data_dir may name another"
    with pytest.raises(ValueError, match=message):
        _load(tmp_path / "pets")
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_sources_know_photos(tmp_path, monkeypatch):
    _folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    options = pictures.Options(image_size=8)
    for name in ("photos/", "./photos", str(tmp_path / "photos")):
        data = sources.load(name, "cache", options)
        assert (data.name, data.input_shape) == ("photos", (8, 8, 3))
    with pytest.raises(ValueError, match="For the folder of that name write photos/"):
        sources.load("photos")
    with pytest.raises(ValueError, match=r"the nearest is .*slash in its path") as c:
        sources.load("photo")
    assert "that name" not in str(c.value)
    with pytest.raises(ValueError, match="none is not a folder of arrays or of ph"):
        sources.load("./none")


def test_other_sets_take_no_options_of_photos(tmp_path):
    small_sets.arrays(tmp_path)
    for name in ("digits", f"{tmp_path}/"):
        with pytest.raises(ValueError, match=r"image_size is for photos, .* got 32"):
            sources.load(name, options=pictures.Options(image_size=32))
    with pytest.raises(ValueError, match="skip_broken is for photos, which digits"):
        sources.load("digits", options=pictures.Options(skip_broken=True))
