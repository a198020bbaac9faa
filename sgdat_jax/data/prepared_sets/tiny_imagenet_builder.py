"""TinyImageNet for tensorflow-datasets, which has none: import it to register it."""

import io
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from sgdat_jax.data import decoding
from sgdat_jax.data.prepared_sets import tiny_imagenet


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """Builder of ``tiny_imagenet``; as array_record it is prepared without TensorFlow.

    Its source is `source`, if that is set, else the manual folder.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Validation images as the test split."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = "tiny-imagenet-200.zip, or what it unpacks to."

    source: pathlib.Path | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="200 classes of ImageNet at 64x64 pixels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(64, 64, 3)),
                    "label": tfds.features.ClassLabel(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, object]]]]:
        path = self.source or pathlib.Path(dl_manager.manual_dir)
        if path.is_dir() and not tiny_imagenet.is_raw(path):
            path = path / "tiny-imagenet-200.zip"
        files = tiny_imagenet.open_files(path)
        listed = tiny_imagenet.listing(files)
        self.info.features["label"].names = listed.class_names
        return {
            "train": self._generate_examples(files, listed.train),
            "test": self._generate_examples(files, listed.test),
        }

    def _generate_examples(
        self, files: tiny_imagenet.Files, images: tuple[tiny_imagenet.Image, ...]
    ) -> Iterator[tuple[str, dict[str, object]]]:
        for example in tiny_imagenet.examples(files, images):
            decoding.read([example], 1)
            name = example.place.removeprefix(files.place)
            yield name, {"image": io.BytesIO(example.content), "label": example.label}
