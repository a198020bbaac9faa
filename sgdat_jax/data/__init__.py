"""Images to train on."""

from sgdat_jax import names

# Modules that have moved are still found here.
__getattr__ = names.lazily(
    __name__,
    {
        name: f"{__name__}.{room}.{name}"
        for room, modules in {
            "photo_sets": "hugging_face photos picture_cache picture_sets",
            "prepared_sets": (
                "feature_classes prepared tiny_imagenet tiny_imagenet_builder"
            ),
        }.items()
        for name in modules.split()
    },
)
