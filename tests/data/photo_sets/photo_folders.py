"""Folders of photos that tests make, and what is loaded of them."""

import io
import os

import numpy as np
from PIL import Image

from sgdat_jax.data import pictures
from sgdat_jax.data.photo_sets import photos


def picture(path, number, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    shape = size[::-1] if mode == "L" else (*size[::-1], len(mode))
    pixels = rng.integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def folder(root, classes=("cat", "dog"), count=5, prefix="", **options):
    """Writes a folder of photos; returns pixels by path."""
    made = {}
    for number, name in enumerate(classes):
        for index in range(count):
            path = f"{prefix}{name}/{index}.png"
            made[path] = picture(root / path, 100 * number + index, **options)
    return made


def load(root, cache=None, **options):
    return photos.load(
        root, pictures.Options(**options), cache or root.parent / "cache"
    )


def rows(data):
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


def torn_jpeg():
    """Half a JPEG file, whose header is whole."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()[: file.tell() // 2]


def break_some(root):
    """Puts pictures that cannot be used into a folder; returns reasons by path."""
    frames = [Image.new("RGB", (9, 9), (value, 0, 0)) for value in (9, 99)]
    frames[0].save(root / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    (root / "cat" / "b.jpg").write_bytes(b"")
    (root / "cat" / "c.jpeg").write_bytes(torn_jpeg())
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
