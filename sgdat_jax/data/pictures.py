"""From pictures of any size, as users have them, to images of one size."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from sgdat_jax import checks, names
from sgdat_jax.data import decoding

# What Pillow may take for a picture. For some others it starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
)
# Pictures as well, to people: they are named and refused, not passed over.
OTHER_SUFFIXES = frozenset(
    (".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".nef")
)
RESIZES = {
    "crop": "scaled to cover the image, then cut to its centre",
    "squash": "stretched to the image's height and width",
}
LEAST_SIZE = 8  # pixels of a side, which every network takes
_MOST_SIZE = 9_000  # a square of as many pixels as are decoded at most
_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", "La", *_16_BITS)
_BEFORE_RESIZE = 2  # times the size, below which a JPEG is not decoded: Pillow's advice


@dataclasses.dataclass(frozen=True)
class Options:
    """How pictures become a data set; None stands for what fits the pictures.

    Raises:
      ValueError: if a value is out of its range.
    """

    test_share: float | None = None
    image_size: int | None = None
    resize: str | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.test_share is not None:
            checks.within("test_share", self.test_share, "(0, 1)")
        if self.image_size is not None:
            checks.at_least("image_size", self.image_size, LEAST_SIZE)
            checks.at_most("image_size", self.image_size, _MOST_SIZE)
        if self.resize is not None:
            names.look_up("resize", RESIZES, self.resize)

    def given(self) -> dict[str, Any]:
        """Returns the options that are not left at their defaults."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


class Header(NamedTuple):
    """What a file says of its picture before it is decoded."""

    height: int
    width: int
    is_grey: bool


def read_header(file: IO[bytes]) -> Header:
    """Returns height, width and kind of a picture; its pixels are not decoded.

    Raises:
      OSError: if the file is not one still picture in one of `FORMATS`, or has too many
        pixels; the message is a reason, without the file's name.

    Example:
      >>> import io
      >>> from PIL import Image
      >>> from sgdat_jax.data import pictures
      >>> file = io.BytesIO()
      >>> Image.new("RGB", (20, 10)).save(file, "PNG")
      >>> pictures.read_header(file)
      Header(height=10, width=20, is_grey=False)
    """
    with _opened(file) as image:
        width, height = image.size
        return Header(height, width, _is_grey(image))


def read(file: IO[bytes], shape: Sequence[int], resize: str) -> np.ndarray:
    """Returns a picture as an image of a shape.

    It is turned upright as its EXIF data say, transparent parts become white, and 16
    bits become 8. Colours become grey or grey becomes RGB, as the shape has it; four
    channels are RGB and alpha.

    Args:
      file: as for `read_header`.
      shape: height, width and channels (1, 3 or 4) of the image.
      resize: a key of `RESIZES`.

    Returns:
      uint8 of that shape.

    Raises:
      OSError: as `read_header`, or if the picture is damaged.
    """
    height, width, channels = shape
    with _opened(file) as image:
        size = _BEFORE_RESIZE * max(height, width)
        # The JPEG decoder leaves out what the resized image does not show.
        image.draft(None, (size, size))
        image.load()
        image = _plain(_upright(image), decoding.MODES[channels])
        pixels = np.asarray(_resized(image, height, width, resize))
    return pixels.reshape(height, width, channels)


def is_one(images: Any) -> bool:
    """Returns whether an array is one image with channels, not grey ones in a row.

    Nobody has grey images of one or three pixels' width.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax.data import pictures
      >>> shapes = [(30, 40, 3), (5, 30, 40), (5, 30, 40, 3)]
      >>> [pictures.is_one(np.zeros(shape)) for shape in shapes]
      [True, False, False]
    """
    shape: tuple[int, ...] = getattr(images, "shape", ())
    return len(shape) == 3 and shape[2] in (1, 3)


def fit(pixels: np.ndarray, shape: Sequence[int], resize: str) -> np.ndarray:
    """Returns an image given as an array as one of another shape.

    Args:
      pixels: uint8 of shape (height, width, channels) or, grey, (height, width).
      shape: of the image that is returned. Its channels are those of `pixels`, or 3
        for 1, or 1 for 3.
      resize: a key of `RESIZES`.

    Raises:
      ValueError: if `pixels` are anything else.
    """
    from PIL import Image

    pixels = np.asarray(pixels)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(
            "an image must be uint8 of shape (height, width, channels), got "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    height, width, channels = shape
    if {pixels.shape[2], channels} == {1, 3}:
        image = Image.fromarray(pixels.squeeze(2) if channels == 3 else pixels)
        pixels = np.asarray(image.convert(decoding.MODES[channels]))
        pixels = pixels.reshape(*pixels.shape[:2], channels)
    if pixels.shape[2] != channels:
        raise ValueError(
            f"an image must have {channels} channels, got {pixels.shape[2]}."
        )
    planes = [
        _resized(Image.fromarray(pixels[..., channel]), height, width, resize)
        for channel in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Pillow from warning of odd metadata; it holds for all threads."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _opened(file: IO[bytes]) -> Iterator[Any]:
    """Opens a picture and checks its header."""
    with decoding.opened(file, FORMATS) as image:
        _check(image)
        yield image


def _check(image: Any) -> None:
    # Cameras put a second picture, of another size, behind the first of a JPEG file.
    if image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False):
        raise OSError(f"it has {image.n_frames} frames, not one")
    if image.mode in ("I", "F"):
        raise OSError("its pixels have 32 bits: they must have 8 or 16")


def _is_grey(image: Any) -> bool:
    if image.mode == "P":
        palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    # Damaged EXIF data are no reason to refuse a whole picture.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _plain(image: Any, mode: str) -> Any:
    from PIL import Image

    if image.mode in _16_BITS:
        # Pillow would clip at 255. Of 16-bit colours it takes the upper half as well.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Any, height: int, width: int, resize: str) -> Any:
    from PIL import Image

    if image.size == (width, height):
        return image
    box = _centre(image.size, height, width) if resize == "crop" else None
    return image.resize((width, height), Image.Resampling.BICUBIC, box)


def _centre(
    size: tuple[int, int], height: int, width: int
) -> tuple[float, float, float, float]:
    """Returns the largest box of a shape in the centre of an image."""
    whole_width, whole_height = size
    is_wide = whole_width * height >= whole_height * width
    box_width = whole_height * width / height if is_wide else whole_width
    box_height = whole_height if is_wide else whole_width * height / width
    left, top = (whole_width - box_width) / 2, (whole_height - box_height) / 2
    right, bottom = left + box_width, top + box_height
    return left, top, min(right, whole_width), min(bottom, whole_height)
