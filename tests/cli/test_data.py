import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image
from rich import console

import shared_runs
import small_sets
from sgdat_jax import cli
from sgdat_jax.cli import data as data_commands
from sgdat_jax.data import sources

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def _printed(arguments, capsys):
    cli.main(["data", *map(str, arguments)])
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def _text(table):
    terminal = console.Console(width=200)
    with terminal.capture() as capture:
        terminal.print(table)
    return capture.get()


def test_prepare_then_info_then_show(tmp_path, capsys):
    root = small_sets.tiny_imagenet(tmp_path)
    sets, sheet = tmp_path / "sets", tmp_path / "sheet.png"
    place = sets / "tiny_imagenet" / "1.0.0"
    arguments = ["prepare", "tiny_imagenet", "--data-dir", sets, "--from", root]
    first = _printed(arguments, capsys)
    assert first == f"tiny_imagenet is prepared in {place}\n"
    again = _printed(arguments, capsys)
    assert again == f"tiny_imagenet was already prepared in {place}\n"
    text = _printed(["info", "tiny_imagenet", "--data-dir", sets], capsys)
    assert "tiny_imagenet: 3 classes" in text
    arguments = ["show", "tiny_imagenet", "--data-dir", sets, "--out", sheet]
    assert str(sheet) in _printed(arguments, capsys)
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 100
    assert not list(tmp_path.glob("*.part"))


def test_info_holds_counts_shapes_and_statistics():
    data = sources.digits()
    lines = _text(data_commands.info_table(data)).splitlines()
    assert lines[0].startswith("digits: 10 classes")
    (train,) = (line.split() for line in lines if "train" in line)
    (test,) = (line.split() for line in lines if "test" in line)
    scaled = data.train_images / 255
    assert train == (
        f"train 1,437 8x8x1 139 to 146 {scaled.mean():.4f} {scaled.std():.4f}".split()
    )
    assert test[:6] == ["test", "360", "8x8x1", "35", "to", "37"]


def test_contact_sheet_shows_images_with_their_classes():
    data = sources.digits()
    cells = data_commands.contact_sheet(data).axes
    assert len(cells) == 80
    for number, cell in enumerate(cells):
        label = number % 10
        assert cell.get_title() == str(label)
        places = np.flatnonzero(data.train_labels == label)
        (image,) = cell.get_images()
        expected = data.train_images[places[number // 10], ..., 0]
        np.testing.assert_array_equal(image.get_array(), expected)


def _channels(count):
    """The digits with that many channels; the last is constant."""
    data = sources.digits()
    return data._replace(
        **{
            part: np.concatenate(
                [np.repeat(images, count - 1, -1), np.full_like(images, 255)], -1
            )
            for part in ("train_images", "test_images")
            for images in [getattr(data, part)]
        }
    )


def test_info_names_constant_channels():
    lines = _text(data_commands.info_table(_channels(4))).splitlines()
    (train,) = (line.split() for line in lines if "train" in line)
    assert train[-2:] == ["0.0000", "3"]


@pytest.mark.parametrize(
    "channels", [2, *(pytest.param(n, marks=pytest.mark.whole) for n in (3, 4, 5))]
)
def test_contact_sheet_of_any_number_of_channels(channels, tmp_path):
    fig = data_commands.contact_sheet(_channels(channels))
    fig.savefig(tmp_path / "sheet.png", dpi=20)
    (image,) = fig.axes[0].get_images()
    in_colour = image.get_array().ndim == 3
    assert in_colour == (channels in (3, 4))


def test_letters_that_the_font_lacks_are_drawn_without_a_warning(tmp_path, capfd):
    small_sets.arrays(tmp_path, 2)
    (tmp_path / "class_names.txt").write_text("\u732b\n\U0001f415\n", "utf-8")
    words = ["data", "show", f"{tmp_path}/", "--out", str(tmp_path / "sheet.png")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cli.main(words)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("num_classes", [1, pytest.param(200, marks=pytest.mark.whole)])
def test_contact_sheet_of_few_and_of_many_classes(num_classes, tmp_path):
    small_sets.arrays(tmp_path, num_classes)
    names = [f"${n}_^{n}" for n in range(num_classes)]  # a formula, if read as such
    (tmp_path / "class_names.txt").write_text("\n".join(names))
    data = sources.load(f"{tmp_path}/")
    fig = data_commands.contact_sheet(data)
    titles = [cell.get_title() for cell in fig.axes if cell.get_images()]
    expected = names * (4 if num_classes == 1 else 1)
    assert titles == expected[:96]
    if num_classes == 1:
        fig.savefig(tmp_path / "sheet.png", dpi=20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "prepare, info, show"),
        ("prepare", "Data set to prepare. cifar10"),
        ("prepare digits", "digits needs no preparing"),
        ("prepare ./folder", "./folder needs no preparing"),
        ("prepare cifar", "the nearest is 'cifar10'"),
        ("prepare tiny_imagenet --data-dir sets", "cannot be downloaded"),
        ("prepare tiny_imagenet --data-dir sets --from none.zip", "none.zip is miss"),
        ("info mnist --data-dir sets", "sgdat-jax data prepare mnist --data-dir sets"),
        ("info ./none", "none is not a folder of arrays"),
        ("show digits --out none/sheet.png", "got none/sheet.png"),
        ("show digits --out folder", "got folder"),
    ],
)
def test_refused_in_one_line(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("folder").mkdir()
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", *arguments.split()])
    output = capsys.readouterr()
    assert (caught.value.code, output.out) == (2, "")
    assert output.err.startswith("sgdat-jax: error: ")
    assert output.err.count("\n") == 1
    assert named in output.err
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.whole
def test_training_on_a_folder_of_arrays(tmp_path):
    small_sets.arrays(tmp_path, num_classes=3, shape=(8, 8, 1))
    (tmp_path / "train_labels.npy").write_bytes(b"")
    done = shared_runs.command("train", "--dataset", f"{tmp_path}/")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/train_labels.npy is not a whole .npy file" in done.stderr
    assert done.stderr.count("\n") == 1
