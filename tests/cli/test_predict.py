"""The command that says what pictures show."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import shared_runs
from sgdat_jax import cli, inference
from sgdat_jax.data import sources

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def pictures(tmp_path):
    """A folder of digits of another size, and the paths in it."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    images = sources.digits().test_images[:3, ..., 0]
    paths = [folder / name for name in ("[a].png", "b.JPG", "more/c.bmp")]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).resize((28, 28)).save(path)
    (folder / "notes.txt").write_text("mine")
    return folder, [str(path) for path in paths]


def _printed(arguments, capsys):
    cli.main(["predict", *map(str, arguments)])
    return capsys.readouterr()


def test_table(pictures, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder, paths = pictures
    output = _printed(["digits", folder], capsys)
    rows = [line.split() for line in output.out.splitlines() if "%" in line]
    assert [row[0] for row in rows] == paths
    found = inference.load("digits").predict(paths)
    for row, name, probabilities in zip(
        rows, found.names, found.probabilities, strict=True
    ):
        assert row[1::2][0] == name
        best = sorted(probabilities, reverse=True)[:3]
        assert row[2::2] == [f"{value:.1%}" for value in best]
    assert output.err == (
        "sgdat-jax: resized 3 of 3 pictures to 8x8 (crop: scaled to cover the image, "
        "then cut to its centre)\n"
    )


def test_json_and_csv_are_nothing_else(pictures, capsys):
    _, paths = pictures
    found = inference.load("digits").predict(paths)
    values = json.loads(_printed(["digits", *paths, "--json"], capsys).out)
    assert [value["image"] for value in values] == paths
    assert [value["class"] for value in values] == list(found.names)
    for value, probabilities in zip(values, found.probabilities, strict=True):
        assert value["probability"] == pytest.approx(probabilities.max(), abs=1e-6)
        assert len(value["top"]) == 3
    output = _printed(["digits", *paths, "--csv", "--top", "2"], capsys).out
    header, *rows = csv.reader(io.StringIO(output))
    assert header == ["image", "class", "probability", "class_2", "probability_2"]
    assert [row[:2] for row in rows] == [
        [path, name] for path, name in zip(paths, found.names, strict=True)
    ]


@pytest.mark.whole
def test_arrays_and_a_run(tmp_path, capsys):
    run = shared_runs.finished()
    images = run.dataset.test_images[:20]
    np.save(tmp_path / "images.npy", images)
    words = [run.folder, tmp_path / "images.npy", "--csv", "--top", "100"]
    output = _printed(words, capsys)
    assert output.err == ""
    _, *rows = csv.reader(io.StringIO(output.out))
    assert rows[3][0] == f"{tmp_path}/images.npy[3]"
    assert len(rows[0]) == 1 + 2 * 10
    labels = inference.load(run.folder / "best.npz")(images).argmax(-1)
    assert [row[1] for row in rows] == [str(label) for label in labels]


def test_broken_pictures(pictures, capsys):
    folder, paths = pictures
    frames = [Image.new("L", (9, 9), value) for value in (9, 99)]
    frames[0].save(folder / "x.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", "digits", str(folder)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "1 of 4 pictures cannot be used: " in error
    assert "x.gif (it has 2 frames, not one); --skip-broken" in error
    output = _printed(["digits", folder, "--skip-broken", "--json"], capsys)
    assert [value["image"] for value in json.loads(output.out)] == paths
    assert "left out 1 of 4 pictures: " in output.err


def test_no_picture_is_left(pictures, capsys):
    folder, _ = pictures
    (folder / "torn.png").write_bytes((folder / "[a].png").read_bytes()[:90])
    (folder / "notes.png").write_text("mine")
    names = [str(folder / name) for name in ("torn.png", "notes.png", "gone.png")]
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", "digits", *names, "--skip-broken", "--json"])
    output = capsys.readouterr()
    assert (caught.value.code, output.out) == (2, "")
    assert output.err.startswith("sgdat-jax: error: 3 of 3 pictures cannot be used: ")
    assert output.err.count("\n") == 1 and "--skip-broken" not in output.err


def test_pictures_broken_behind_their_headers(pictures, capsys):
    folder, paths = pictures
    content = (folder / "[a].png").read_bytes()
    (folder / "torn.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", "digits", str(folder)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "1 of 4 pictures cannot be used: " in error
    assert "torn.png (" in error and error.count("\n") == 1
    output = _printed(["digits", folder, "--skip-broken", "--json"], capsys)
    assert [value["image"] for value in json.loads(output.out)] == paths
    assert "left out 1 of 4 pictures: " in output.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("predict", "File of weights"),
        ("predict digits", "images must name at least one picture"),
        ("predict digit a.png", "digit must be a file of weights, "),
        ("predict digits a.png", "a.png (No such file or directory).\n"),
        ("predict digits empty", "empty must hold pictures"),
        ("predict digits a.npy", "a.npy is missing"),
        ("predict digits floats.npy", "got float64 of shape (2, 8, 8)"),
        ("predict digits none.npy", "must hold pictures, got shape (0, 8, 8, 1)"),
        ("predict digits a.png --json --csv", "json and csv exclude each other"),
        ("predict digits a.png --top 0", "top must be at least 1, got 0"),
        ("evaluate photo.jpg", "sgdat-jax predict best.npz photo.jpg"),
    ],
)
def test_refused_in_one_line(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    np.save("floats.npy", np.zeros((2, 8, 8)))
    np.save("none.npy", np.zeros((0, 8, 8, 1), np.uint8))
    Image.new("L", (8, 8)).save("photo.jpg")
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments.split())
    output = capsys.readouterr()
    assert (caught.value.code, output.out) == (2, "")
    assert output.err.startswith("sgdat-jax: error: ")
    assert output.err.count("\n") == 1
    assert named in output.err
    assert "pickle" not in output.err


def test_an_array_of_three_axes_is_one_picture_if_the_last_has_channels(
    tmp_path, capsys
):
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    np.save(tmp_path / "grey.npy", images)
    np.save(tmp_path / "one.npy", images.transpose(1, 2, 0))
    words = ["digits", tmp_path / "grey.npy", tmp_path / "one.npy", "--csv"]
    _, *rows = csv.reader(io.StringIO(_printed(words, capsys).out))
    assert [row[0].rpartition("/")[2] for row in rows] == [
        *(f"grey.npy[{i}]" for i in range(3)),
        "one.npy",
    ]


@pytest.mark.whole
def test_a_file_named_digits_comes_first(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, paths = pictures
    own = shared_runs.finished().folder / "best.npz"
    shutil.copy(own, "digits")
    output = _printed(["digits", *paths, "--json"], capsys).out
    found = inference.load(own).predict(paths)
    expected = [pytest.approx(max(p), abs=1e-6) for p in found.probabilities]
    assert [value["probability"] for value in json.loads(output)] == expected
