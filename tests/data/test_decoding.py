"""Images of formats that are meant, and of those that are not."""

import ast
import io
import os
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import EpsImagePlugin, Image

import sgdat_jax
import small_sets
from sgdat_jax.data import decoding, sources
from sgdat_jax.data.prepared_sets import prepared, tiny_imagenet

_EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
%%EndProlog
showpage
%%EOF
"""


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A Ghostscript that leaves a file when it is started; returns whether it was."""
    program, trace = tmp_path / "bin" / "gs", tmp_path / "was started"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{trace}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return trace.exists


def test_the_trap_works(ghostscript):
    with pytest.raises(OSError), Image.open(io.BytesIO(_EPS)) as image:
        image.load()
    assert ghostscript()


@pytest.mark.parametrize("kind", decoding.FORMATS)
def test_formats_that_are_meant(kind):
    content = small_sets.image_file(0, kind=kind)
    assert decoding.decode(content).shape == (64, 64, 3)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "PCX", "JPEG2000", "PDF"])
def test_formats_that_are_not(kind):
    content = small_sets.image_file(0, kind=kind)
    with pytest.raises(OSError, match="must be one of PNG, JPEG, BMP, GIF"):
        decoding.decode(content)


def test_published_image_that_is_a_program(tmp_path, ghostscript):
    root = small_sets.tiny_imagenet(tmp_path)
    (root / "train" / "n01" / "images" / "n01_0.JPEG").write_bytes(_EPS)
    message = "n01_0.JPEG is not a whole image: its format must be one of PNG, JPEG"
    for path in (root, small_sets.zipped(root)):
        with pytest.raises(ValueError, match=message):
            tiny_imagenet.load(path)
        with pytest.raises(ValueError, match=message):
            prepared.prepare("tiny_imagenet", tmp_path / "sets", path)
    assert not ghostscript()


class TwoImages(tfds.core.GeneratorBasedBuilder):
    """A set with a second image and nested ones, which may be anything."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012
    contents = {"image": b"", "mask": b""}  # noqa: RUF012

    def _info(self):
        image = tfds.features.Image(shape=(64, 64, 3))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": image,
                    "label": tfds.features.ClassLabel(num_classes=1),
                    "mask": image,
                    "more": tfds.features.Sequence({"image": image}),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        image, mask = (io.BytesIO(self.contents[name]) for name in ("image", "mask"))
        more = [{"image": io.BytesIO(self.contents["mask"])}]
        yield 0, {"image": image, "mask": mask, "more": more, "label": 0}


def _prepare(folder, **contents):
    builder = tfds.builder("two_images", data_dir=folder)
    builder.contents = contents
    builder.download_and_prepare(file_format="array_record", download_dir=folder / "d")


def test_other_images_of_a_prepared_set_are_not_opened(tmp_path, ghostscript):
    content = small_sets.image_file(0, kind="PNG")
    _prepare(tmp_path / "sets", image=content, mask=_EPS)
    data = sources.load("tfds:two_images", tmp_path / "sets")
    np.testing.assert_array_equal(data.train_images[0], decoding.decode(content))
    assert not ghostscript()
    whole = tfds.builder("two_images", data_dir=tmp_path / "sets")
    with pytest.raises(
        OSError, match="cannot identify"
    ):  # as tensorflow-datasets opens them
        whole.as_data_source("train")[0]
    assert ghostscript()


def test_prepared_image_that_is_a_program(tmp_path, ghostscript):
    _prepare(tmp_path / "sets", image=_EPS, mask=_EPS)
    with pytest.raises(ValueError, match=r"\(train, example 0\) is not a whole image"):
        sources.load("tfds:two_images", tmp_path / "sets")
    assert not ghostscript()


def test_every_opened_image_names_its_formats():
    package = pathlib.Path(sgdat_jax.__file__).parent
    opened = [
        call
        for file in package.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Image.open"
    ]
    assert opened
    for call in opened:
        assert "formats" in {keyword.arg for keyword in call.keywords}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_back_with_as_many_channels(channels):
    shape = (5, 6, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    np.testing.assert_array_equal(decoding.decode(file.getvalue(), channels), pixels)


def test_too_many_pixels_are_not_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, "PNG")
    with pytest.raises(OSError, match="it has more than 100 pixels, 20x10"):
        decoding.decode(file.getvalue())
