"""Pictures of every kind that users have, one by one."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from sgdat_jax.data import pictures

_RNG = np.random.default_rng(0)


def _encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def _colours(height=30, width=40):
    """Four quarters: red and green above, blue and white below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    pixels[:top, :left, 0] = pixels[:top, left:, 1] = pixels[top:, :left, 2] = 255
    pixels[top:, left:] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_formats(kind):
    lossless = {"lossless": True} if kind == "WEBP" else {}
    file = _encoded(_colours(), kind, **lossless)
    assert pictures.read_header(file)[:2] == (30, 40)
    pixels = pictures.read(file, (30, 40, 3), "crop")
    # JPEG and the palette of GIF change colours a little.
    off = 30 if kind in ("JPEG", "GIF") else 0
    assert np.abs(pixels.astype(int) - np.asarray(_colours())).mean() <= off


def test_crop_keeps_the_centre_and_squash_keeps_all():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    file = _encoded(Image.fromarray(pixels))
    np.testing.assert_array_equal(pictures.read(file, (10, 10, 3), "crop"), 255)
    squashed = pictures.read(file, (10, 10, 3), "squash")
    assert squashed[:, 0].max() == 0
    assert squashed[:, 5].min() == 255
    tall = _encoded(Image.fromarray(pixels.transpose(1, 0, 2)))
    np.testing.assert_array_equal(pictures.read(tall, (10, 10, 3), "crop"), 255)
    wide = pictures.read(file, (5, 10, 3), "crop")  # no square
    np.testing.assert_array_equal(wide[:, 0], wide[:, -1])


@pytest.mark.parametrize("size", [(9, 9), (11, 300), (1, 500), (333, 77), (8, 7)])
def test_any_size_fits(size):
    image = Image.fromarray(_RNG.integers(0, 256, (*size, 3), np.uint8))
    for resize in pictures.RESIZES:
        pixels = pictures.read(_encoded(image), (13, 8, 3), resize)
        assert (pixels.shape, pixels.dtype) == ((13, 8, 3), np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_upright(orientation, kind):
    turn = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = _colours() if turn is None else _colours().transpose(turn)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = pictures.read(_encoded(stored, kind, exif=exif), (30, 40, 3), "crop")
    assert np.abs(pixels.astype(int) - np.asarray(_colours())).mean() < 30


def test_damaged_exif_is_passed_over():
    file = _encoded(_colours(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    pixels = pictures.read(file, (30, 40, 3), "crop")
    assert np.abs(pixels.astype(int) - np.asarray(_colours())).mean() < 30


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_white(mode):
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))  # black below, as most are
    image.paste((0, 0, 0, 255), (0, 0, 10, 10))
    file = _encoded(image.convert(mode), "PNG")
    grey = pictures.read(file, (10, 20, 1), "crop")
    np.testing.assert_array_equal(grey[:, :10], 0)
    np.testing.assert_array_equal(grey[:, 10:], 255)
    colour = pictures.read(file, (10, 20, 3), "crop")
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, -1))
    with_alpha = pictures.read(file, (10, 20, 4), "crop")
    np.testing.assert_array_equal(with_alpha[..., 3], 255 - grey[..., 0])


def test_a_transparent_colour_is_white():
    file = _encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    np.testing.assert_array_equal(pictures.read(file, (8, 8, 3), "crop"), 255)


def test_16_bits_keep_their_upper_half():
    pixels = np.arange(0, 65536, 1024, np.uint16).reshape(8, 8)
    file = _encoded(Image.fromarray(pixels), "PNG")
    assert pictures.read_header(file).is_grey
    found = pictures.read(file, (8, 8, 1), "crop")
    np.testing.assert_array_equal(found[..., 0], pixels // 256)


def test_cmyk_becomes_colour():
    file = _encoded(_colours(16, 16).convert("CMYK"), "JPEG", quality=100)
    assert not pictures.read_header(file).is_grey
    found = pictures.read(file, (16, 16, 3), "crop").astype(int)
    assert np.abs(found - np.asarray(_colours(16, 16))).max() < 16


@pytest.mark.parametrize(
    ("image", "is_grey"),
    [
        (Image.new("L", (8, 8)), True),
        (Image.new("1", (8, 8)), True),
        (Image.new("LA", (8, 8)), True),
        (Image.new("L", (8, 8), 9).convert("P"), True),
        (Image.new("RGB", (8, 8), (1, 2, 3)).convert("P"), False),
        (Image.new("RGB", (8, 8)), False),
    ],
)
def test_what_is_grey(image, is_grey):
    assert pictures.read_header(_encoded(image)).is_grey == is_grey


def test_a_second_picture_of_a_camera_is_no_animation():
    small = _colours(15, 20)
    file = _encoded(_colours(), "MPO", save_all=True, append_images=[small])
    assert Image.open(file, formats=["JPEG"]).n_frames == 2
    assert pictures.read_header(file) == (30, 40, False)
    assert pictures.read(file, (8, 8, 3), "crop").shape == (8, 8, 3)


def _frames(kind):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (9, 99, 199)]
    return _encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _jpeg():
    noise = Image.fromarray(_RNG.integers(0, 256, (64, 64, 3), np.uint8))
    return _encoded(noise, "JPEG").getvalue()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (_frames("GIF"), "it has 3 frames, not one"),
        (_frames("WEBP"), "it has 3 frames, not one"),
        (_frames("PNG"), "it has 3 frames, not one"),
        (_frames("TIFF"), "it has 3 frames, not one"),
        (io.BytesIO(b""), "its format must be one of JPEG, PNG"),
        (io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "its format must be one of"),
        (_encoded(_colours(), "PPM"), "its format must be one of"),
        (_encoded(Image.new("F", (8, 8)), "TIFF"), "have 32 bits"),
        (_encoded(Image.new("I", (8, 8)), "TIFF"), "have 32 bits"),
        (
            _encoded(Image.new("1", (10_000, 9_000))),
            "89,000,000 pixels, 10,000",
        ),
        (_encoded(Image.new("1", (19_000, 19_000))), "more than 89,000,000 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refused_by_their_headers(file, reason):
    with pytest.raises(OSError, match=reason):
        pictures.read_header(file)
    with pytest.raises(OSError, match=reason):
        pictures.read(file, (8, 8, 3), "crop")


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_cut_short(kind):
    noise = Image.fromarray(_RNG.integers(0, 256, (64, 64, 3), np.uint8))
    content = _encoded(noise, kind).getvalue()
    for size in (10, len(content) // 2):
        with pytest.raises(OSError):
            pictures.read(io.BytesIO(content[:size]), (8, 8, 3), "crop")


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_damage_raises_nothing_else(kind):
    content = bytearray(_encoded(_colours(16, 16), kind).getvalue())
    for number in range(60):
        damaged = content.copy()
        places = np.random.default_rng(number).integers(0, len(content), 4)
        for place in places:
            damaged[place] ^= 0xA5
        try:
            pixels = pictures.read(io.BytesIO(damaged), (8, 8, 3), "squash")
        except OSError as error:
            assert "\n" not in str(error)
        else:
            assert pixels.shape == (8, 8, 3)


def test_arrays_fit_as_their_files_do():
    grey = _RNG.integers(0, 256, (40, 30), np.uint8)
    colour = _RNG.integers(0, 256, (40, 30, 3), np.uint8)
    for pixels in (grey, colour):
        file = _encoded(Image.fromarray(pixels))
        for channels in (1, 3):
            shape = (12, 12, channels)
            np.testing.assert_array_equal(
                pictures.fit(pixels, shape, "crop"), pictures.read(file, shape, "crop")
            )
    five = _RNG.integers(0, 256, (40, 30, 5), np.uint8)
    assert pictures.fit(five, (8, 8, 5), "squash").shape == (8, 8, 5)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((8, 8), np.float32), "must be uint8 .* got float32"),
        (np.zeros(8, np.uint8), r"of shape \(8,\)"),
        (np.zeros((8, 0, 1), np.uint8), r"of shape \(8, 0, 1\)"),
        (np.zeros((8, 8, 4), np.uint8), "must have 3 channels, got 4"),
    ],
)
def test_refused_arrays(pixels, reason):
    with pytest.raises(ValueError, match=reason):
        pictures.fit(pixels, (9, 9, 3), "crop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": 0.0}, r"test_share must be in \(0, 1\), got 0.0"),
        ({"test_share": 1}, r"test_share must be in \(0, 1\), got 1"),
        ({"test_share": float("nan")}, "got nan"),
        ({"image_size": 7}, "image_size must be at least 8, got 7"),
        ({"image_size": 10**9}, "image_size must be at most 9000, got 1000000000"),
        ({"resize": "pad"}, "unknown resize 'pad'; the nearest is 'squash'|'crop'"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        pictures.Options(**options)


def test_a_large_jpeg_is_not_decoded_as_a_whole(monkeypatch):
    decoded = []
    monkeypatch.setattr(
        pictures, "_upright", lambda image: decoded.append(image.size) or image
    )
    file = _encoded(Image.new("RGB", (4000, 3000), (10, 200, 90)), "JPEG")
    pixels = pictures.read(file, (16, 16, 3), "crop")
    assert decoded == [(500, 375)]
    assert np.abs(pixels.astype(int) - (10, 200, 90)).max() <= 3
