"""Folders of photos: how they are divided, and what is refused."""

import os
import shutil
import unicodedata

import numpy as np
import pytest

import photo_folders as sets
import small_sets
from benchmarks import strangers
from sgdat_jax.data import pictures, sources
from sgdat_jax.data.photo_sets import picture_sets


def test_train_and_test_folders(tmp_path):
    root = tmp_path / "pets"
    train = sets.folder(root, ("dog", "cat"), 3, "train/", size=(10, 10))
    test = sets.folder(root, ("cat", "dog"), 2, "test/", size=(10, 10))
    data = sets.load(root)
    assert (data.name, data.class_names) == ("pets", ("cat", "dog"))
    expected = [
        (part, data.class_names.index(path.split("/")[1]), pixels.tobytes())
        for part, made in (("train", train), ("test", test))
        for path, pixels in made.items()
    ]
    assert sets.rows(data) == sorted(expected)
    assert data.options == pictures.Options(None, 10, "crop")
    assert data.notes == ()
    for field in ("train_images", "test_images"):
        assert isinstance(getattr(data, field), np.memmap)
        assert not getattr(data, field).flags.writeable


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Test"])
def test_other_names_of_the_test_folder(tmp_path, name):
    sets.folder(tmp_path / "pets", count=2, prefix="train/")
    sets.folder(tmp_path / "pets", count=1, prefix=f"{name}/")
    assert len(sets.load(tmp_path / "pets").test_images) == 2


def test_test_comes_before_val(tmp_path):
    root = tmp_path / "pets"
    for prefix, count in (("train/", 2), ("val/", 3), ("test/", 1)):
        sets.folder(root, count=count, prefix=prefix)
    data = sets.load(root)
    assert len(data.test_images) == 2
    assert "val/ is not used" in data.notes


def test_accents_apart_from_their_letters_are_the_same_class(tmp_path):
    root = tmp_path / "pets"
    together = unicodedata.normalize("NFC", "b\u00e9b\u00e9")
    apart = unicodedata.normalize("NFD", together)
    sets.folder(root, (together, apart, "dog"), 2, "train/")
    sets.folder(root, (apart, "dog"), 1, "test/")
    data = sets.load(root)
    assert data.class_names == (together, "dog")
    assert np.bincount(data.train_labels).tolist() == [4, 2]
    assert np.bincount(data.test_labels).tolist() == [1, 1]


def test_a_name_that_is_not_utf8_can_be_shown(tmp_path):
    root = tmp_path / "pets"
    names = [os.fsdecode(name) for name in (b"a\xfe", b"a\xff")]
    sets.folder(root, names)
    data = sets.load(root)
    assert data.class_names == (r"a\xfe", r"a\xff")
    assert np.bincount(data.train_labels).tolist() == [4, 4]


def test_folders_of_one_name_but_for_capitals_are_told(tmp_path):
    root = tmp_path / "pets"
    for prefix in ("train/", "Train/", "test/", "TEST/"):
        sets.folder(root, count=1, prefix=prefix)
    notes = sets.load(root).notes
    assert {"Train/ is not used", "TEST/ is not used"} <= set(notes)


def test_train_alone_is_divided_and_may_be_a_class(tmp_path):
    sets.folder(tmp_path / "one", prefix="train/")
    assert sets.load(tmp_path / "one").class_names == ("cat", "dog")
    sets.folder(tmp_path / "two", classes=("car", "train"))
    assert sets.load(tmp_path / "two").class_names == ("car", "train")


def test_division_is_by_names_alone(tmp_path):
    root, again = tmp_path / "a" / "pets", tmp_path / "b" / "pets"
    made = sets.folder(root, count=20)
    for path in reversed(made):  # in another order, at other times, in another place
        (again / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, again / path)
    data = sets.load(root)
    assert sets.rows(data) == sets.rows(sets.load(again))
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
    sets.folder(tmp_path / "pets", count=count)
    data = sets.load(tmp_path / "pets", test_share=share)
    assert np.bincount(data.test_labels).tolist() == [tests, tests]
    assert len(data.train_images) == 2 * (count - tests)


def test_default_size_is_the_median_side(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    sets.folder(small, count=2, size=(40, 30))
    sets.picture(small / "cat" / "outlier.png", 7, size=(500, 400))
    assert sets.load(small).input_shape == (30, 30, 3)
    sets.folder(large, count=2, size=(80, 90))
    data = sets.load(large)
    assert data.input_shape == (64, 64, 3)
    assert any("pictures became 64x64" in note for note in data.notes)
    assert sets.load(large, image_size=96).input_shape == (96, 96, 3)


def test_squash_is_another_set(tmp_path):
    sets.folder(tmp_path / "pets", size=(40, 10))
    crop = sets.load(tmp_path / "pets")
    squash = sets.load(tmp_path / "pets", resize="squash")
    assert crop.input_shape == squash.input_shape
    assert sets.rows(crop) != sets.rows(squash)


def test_grey_stays_grey_until_one_is_in_colour(tmp_path):
    made = sets.folder(tmp_path / "pets", size=(10, 10), mode="L")
    data = sets.load(tmp_path / "pets")
    assert data.input_shape == (10, 10, 1)
    assert {pixels for *_, pixels in sets.rows(data)} == {
        p.tobytes() for p in made.values()
    }
    sets.picture(tmp_path / "pets" / "dog" / "x.png", 9, (10, 10))
    assert sets.load(tmp_path / "pets").input_shape == (10, 10, 3)


def test_what_lies_about(tmp_path):
    root = tmp_path / "pets"
    sets.folder(root, count=3)
    sets.picture(root / "cat" / "LOUD.JPG", 50)
    sets.picture(root / "dog" / "deep" / "down" / "er.Png", 51)
    sets.picture(root / "cat" / ".hidden.png", 52)
    sets.picture(root / "dog" / "._3.png", 53)
    sets.picture(root / ".trash" / "x.png", 54)
    sets.picture(root / "__MACOSX" / "x.png", 55)
    sets.picture(root / "beside.png", 56)
    (root / "cat" / "notes.txt").write_text("mine")
    (root / "cat" / "Thumbs.db").write_text("")
    outside = tmp_path / "outside"
    sets.picture(outside / "linked.png", 57)
    sets.picture(outside / "bird" / "in a linked folder.png", 58)
    (root / "cat" / "link.png").symlink_to(outside / "linked.png")
    (root / "dog" / "loop").symlink_to(root)
    (root / "elk").symlink_to(outside / "bird")
    before = strangers.contents(tmp_path)
    data = sets.load(root)
    assert data.class_names == ("cat", "dog", "elk")
    counts = np.bincount(data.train_labels) + np.bincount(data.test_labels, minlength=3)
    assert counts.tolist() == [5, 4, 1]
    (note,) = (n for n in data.notes if "no pictures" in n)
    assert all(n in note for n in ("cat/Thumbs.db", "cat/notes.txt", "beside.png"))
    assert before.items() <= strangers.contents(tmp_path).items()
    assert set(strangers.contents(root)) == {
        name.removeprefix("pets/") for name in before if name.startswith("pets/")
    }


def test_broken_pictures_are_named_and_refused(tmp_path):
    root = tmp_path / "pets"
    sets.folder(root, count=3)
    reasons = sets.break_some(root)
    with pytest.raises(ValueError, match=r"6 of 13 pictures in .*--skip-broken") as c:
        sets.load(root)
    assert "\n" not in str(c.value)
    for path in list(reasons)[:3]:
        assert f"{path} ({reasons[path]}" in str(c.value)
    for path in list(reasons)[:-1]:
        (root / path).unlink()
    with pytest.raises(ValueError, match=r"1 of 7 .*cat/c.jpeg \(.*truncated"):
        sets.load(root)


def test_broken_pictures_are_left_out(tmp_path):
    root = tmp_path / "pets"
    made = sets.folder(root, count=6, size=(10, 10))
    sets.break_some(root)
    for cache in (tmp_path / "cache", tmp_path / "cache", tmp_path / "other"):
        data = sets.load(root, cache, skip_broken=True)
        found = {pixels for *_, pixels in sets.rows(data)}
        assert found == {pixels.tobytes() for pixels in made.values()}
        (note,) = (n for n in data.notes if "broken" in n)
        assert note.startswith("left out as broken, 7: cat/a.gif (it has 2 frames")


def test_broken_pictures_alone(tmp_path):
    root = tmp_path / "pets"
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(sets.torn_jpeg())
    with pytest.raises(ValueError, match="There must be a whole picture to train with"):
        sets.load(root, skip_broken=True)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="There must be a whole picture to train with"):
        sets.load(root, skip_broken=True)


def test_a_class_of_broken_pictures_alone(tmp_path):
    root = tmp_path / "pets"
    sets.folder(root, count=3)
    (root / "elk").mkdir()
    (root / "elk" / "x.jpg").write_bytes(sets.torn_jpeg())
    with pytest.raises(ValueError, match=r"none of class 2 \(elk\)"):
        sets.load(root, skip_broken=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "it has no folders of classes with pictures in them"),
        (
            lambda root: sets.picture(root / "a.png", 0),
            "it has no folders of classes",
        ),
        (
            lambda root: [
                (root / "cat").mkdir(),
                (root / "cat" / "a.heic").write_bytes(b"x"),
            ],
            r"got cat/a.heic \(its format must be one of",
        ),
        (
            lambda root: [
                sets.folder(root),
                (root / "elk").mkdir(),
                (root / "elk" / "a.heic").write_bytes(b"x"),
            ],
            r"1 of 11 pictures .* elk/a.heic \(its format must be one of",
        ),
        (
            lambda root: sets.folder(root, ("cat",)),
            "two or more classes, got cat",
        ),
        (
            lambda root: [sets.folder(root), (root / "elk").mkdir()],
            "pets/elk must hold a picture",
        ),
        (
            lambda root: [
                sets.folder(root, prefix="train/"),
                sets.folder(root, ("cat", "elk"), prefix="val/"),
            ],
            "pets/val/elk belongs to no class in .*pets/train",
        ),
        (
            lambda root: [
                sets.folder(root, prefix="train/"),
                (root / "test").mkdir(),
            ],
            "pets/test must hold pictures of classes",
        ),
        (
            lambda root: sets.folder(root, count=1),
            "A class must have two pictures",
        ),
    ],
)
def test_refused_folders(tmp_path, make, message):
    (tmp_path / "pets").mkdir()
    make(tmp_path / "pets")
    with pytest.raises(ValueError, match=message) as caught:
        sets.load(tmp_path / "pets")
    assert "\n" not in str(caught.value)


def test_test_share_beside_a_test_folder(tmp_path):
    sets.folder(tmp_path / "pets", prefix="train/")
    sets.folder(tmp_path / "pets", prefix="test/")
    with pytest.raises(ValueError, match="test_share is for folders without"):
        sets.load(tmp_path / "pets", test_share=0.3)


def test_sources_know_photos(tmp_path, monkeypatch):
    sets.folder(tmp_path / "photos")
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
    with pytest.raises(ValueError, match="none is not a folder of arrays or of ph"):
        sources.load("./none", options=options)  # of a run whose photos are gone


def test_other_sets_take_no_options_of_photos(tmp_path):
    small_sets.arrays(tmp_path)
    for name in ("digits", f"{tmp_path}/"):
        with pytest.raises(ValueError, match=r"image_size is for photos, .* got 32"):
            sources.load(name, options=pictures.Options(image_size=32))
    with pytest.raises(ValueError, match="skip_broken is for photos, which digits"):
        sources.load("digits", options=pictures.Options(skip_broken=True))
