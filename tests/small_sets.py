"""Small data sets on disk, as users have them."""

import io
import pathlib
import zipfile

import numpy as np
from PIL import Image

CLASS_IDS = ("n02", "n01", "n03")
WORDS = {"n01": "cat, true cat", "n02": "dog", "n03": "cat", "n99": "unused"}
PER_CLASS = 3


def image_file(number, channels=3, size=64, kind="JPEG"):
    """The bytes of a picture that no other number has."""
    rng = np.random.default_rng(number)
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (4, 4, channels)), 16, 0), 16, 1)
    pixels = pixels[:size, :size].astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, kind)
    return file.getvalue()


def pixels_of(content):
    """What a picture shows, in colours."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def tiny_imagenet(folder):
    """Writes a set of three classes, laid out as TinyImageNet, and returns its root."""
    root = pathlib.Path(folder, "tiny-imagenet-200")
    files = {
        "wnids.txt": "\n".join(CLASS_IDS).encode(),
        "words.txt": "".join(f"{k}\t{v}\n" for k, v in WORDS.items()).encode(),
    }
    annotations = []
    for number, class_id in enumerate(CLASS_IDS):
        for image in range(PER_CLASS):
            key = number * PER_CLASS + image
            channels = 1 if key == 0 else 3
            name = f"train/{class_id}/images/{class_id}_{image}.JPEG"
            files[name] = image_file(key, channels)
        files[f"train/{class_id}/{class_id}_boxes.txt"] = b"boxes"
        files[f"val/images/val_{number}.JPEG"] = image_file(100 + number)
        annotations.append(f"val_{number}.JPEG\t{class_id}\t0\t0\t9\t9\n")
        files[f"test/images/test_{number}.JPEG"] = image_file(200 + number)
    files["val/val_annotations.txt"] = "".join(annotations).encode()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zipped(root):
    """Packs a folder as the published zip beside it, and returns that."""
    path = root.parent / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


def arrays(folder, num_classes=3, shape=(8, 8, 3)):
    """Writes a folder of random arrays and returns what is in it."""
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 4 * num_classes), ("test", num_classes)):
        made[f"{part}_images"] = rng.integers(0, 256, (count, *shape), np.uint8)
        made[f"{part}_labels"] = np.arange(count) % num_classes
    for name, array in made.items():
        np.save(pathlib.Path(folder, f"{name}.npy"), array)
    return made
