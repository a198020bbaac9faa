"""From compressed images to arrays."""

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

# Formats of images in data sets. For some others Pillow starts other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF")
MAX_PIXELS = 89_000_000  # of an image; Pillow warns of more
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by number of channels


class Example(NamedTuple):
    """A labelled image as its source keeps it."""

    place: str  # what error messages call it
    content: bytes  # of a file in one of `FORMATS`
    label: int


@contextlib.contextmanager
def opened(file: IO[bytes], formats: tuple[str, ...]) -> Iterator[Any]:
    """Opens an image for a block that decodes it.

    Args:
      file: to read, which stays open.
      formats: that Pillow may take it for.

    Raises:
      OSError: if it is no image of these formats, damaged, or has more than
        `MAX_PIXELS`; the message is a reason, without the file's name.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=formats) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise OSError(
                    f"it has more than {MAX_PIXELS:,} pixels, {width:,}x{height:,}"
                )
            yield image
    except Image.UnidentifiedImageError:
        raise OSError(f"its format must be one of {', '.join(formats)}") from None
    except Image.DecompressionBombError:
        raise OSError(f"it has more than {MAX_PIXELS:,} pixels") from None
    except OSError:
        raise
    except Exception as error:  # whatever damage makes Pillow raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(reason) from error


def decode(content: bytes, channels: int = 3) -> np.ndarray:
    """Returns the pixels of a compressed image, of shape (height, width, channels).

    Args:
      content: the bytes of a file in one of `FORMATS`, whatever its name is.
      channels: 1, 3 or 4; 1 turns colours into grey, 3 turns grey into RGB.

    Raises:
      OSError: if the content is no image or a damaged one.

    Example:
      >>> import io
      >>> from PIL import Image
      >>> from sgdat_jax.data import decoding
      >>> file = io.BytesIO()
      >>> Image.new("L", (2, 1), 7).save(file, "PNG")
      >>> decoding.decode(file.getvalue())
      array([[[7, 7, 7],
              [7, 7, 7]]], dtype=uint8)
    """
    with opened(io.BytesIO(content), FORMATS) as image:
        pixels = np.asarray(image.convert(MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def read(
    examples: Iterable[Example], count: int, channels: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of examples as arrays.

    Args:
      examples: as many as ``count``, with images of one size.
      count: number of examples, at least 1.
      channels: of the images, 1, 3 or 4.

    Returns:
      uint8 of shape (count, height, width, channels), and int64 of shape (count,).

    Raises:
      ValueError: if an image is damaged or of another size than the first, or if there
        are more or fewer examples.
    """
    images, labels = np.empty((0, 0, 0, channels), np.uint8), np.empty(count, np.int64)
    done = 0
    for done, example in enumerate(examples, start=1):
        if done > count:
            break
        try:
            image = decode(example.content, channels)
        except OSError as error:
            raise ValueError(
                f"{example.place} is not a whole image: {error}"
            ) from error
        if done == 1:
            images = np.empty((count, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"{example.place}: images must have one shape, got {image.shape} after "
                f"{images.shape[1:]}."
            )
        images[done - 1], labels[done - 1] = image, example.label
    if done != count:
        more = "more" if done > count else str(done)
        raise ValueError(f"there must be {count} images, got {more}.")
    return images, labels
