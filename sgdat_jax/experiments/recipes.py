"""Named recipes: the paper's experiments, by data set, network and method.

A recipe is a set of defaults, which any explicit setting overrides. It follows the
published training script, which makes new optimizers at every epoch. What an optimizer
holds starts again at zero then: flip counts and momentum of SGDAT, momentum and moments
of the optimizers of latent weights and of the real-valued parameters. What the script
keeps beside the weights goes on: latent weights and the averages of Bop.
`restart_binary_every_epoch`, `reset_flips_every_epoch` and `restart_real_every_epoch`
turn each restart off. Running variances of batch normalization are PyTorch's.

Unlike in the script, the last images of an epoch, fewer than a batch, are left out.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from sgdat_jax import checks
from sgdat_jax.experiments import configs, methods

_Config = TypeVar("_Config", bound=configs.BaseConfig)

# Shan et al., Neurocomputing 555, 126431, 2023, and its code: constant rates.
_SHARED = {
    "batch_size": 256,
    "flip": True,
    "real_schedule": "constant",
    "restart_real_every_epoch": True,
    "reset_flips_every_epoch": True,
    "restart_binary_every_epoch": True,
    "unbiased_variance": True,
}
_CIFAR = {"epochs": 200, "crop_padding": 4, "normalization": "imagenet"}
_DATASETS: Mapping[str, Mapping[str, Any]] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "tiny_imagenet": {
        "epochs": 100,
        "crop_padding": 0,
        "resized_crop": True,
        "normalization": "tiny_imagenet",
    },
}
_MODELS = {"binarynet": "BinaryNet", "resnet18": "SgdatResNet18"}


# The tasks alone, such as cifar10-binarynet, and the fields of `BaseConfig` they set.
TASKS: dict[str, dict[str, Any]] = {
    f"{dataset}-{model}": {"dataset": dataset, "model": network, **_SHARED, **settings}
    for dataset, settings in _DATASETS.items()
    for model, network in _MODELS.items()
}
# The tasks, and each with each row of the paper's table: fields of `TrainConfig`.
RECIPES: dict[str, dict[str, Any]] = TASKS | {
    f"{task}-{name}": {**settings, **method.settings}
    for task, settings in TASKS.items()
    for name, method in methods.PAPER.items()
}


def config(kind: type[_Config], name: str) -> _Config:
    """Returns the config of a recipe, as `settings` has it.

    Example:
      >>> from sgdat_jax.experiments import configs, recipes
      >>> settings = recipes.config(configs.TrainConfig, "cifar10-binarynet-sgdm")
      >>> settings.model, settings.epochs, settings.optimizer, settings.momentum
      ('BinaryNet', 200, 'sgd', 0.9)
    """
    return kind(**settings(kind, name))


def settings(kind: type[configs.BaseConfig], name: str) -> Mapping[str, Any]:
    """Returns the settings of a recipe.

    Args:
      kind: ``TrainConfig`` for any recipe; ``CompareConfig`` and ``SweepConfig``, which
        have methods of their own, for a task.
      name: a key of `RECIPES`, or of `TASKS`.

    Raises:
      ValueError: if there is no such recipe.
    """
    of_runs = issubclass(kind, configs.TrainConfig)
    table, form = (RECIPES, "[-METHOD]") if of_runs else (TASKS, "")
    if name not in table:
        raise ValueError(
            f"unknown recipe {name!r}; the nearest is {checks.nearest(table, name)!r} "
            f"(recipes are DATASET-NETWORK{form})."
        )
    return table[name]


class Cost(NamedTuple):
    """What it costs to train one network by a recipe."""

    images: int  # seen in training, over all epochs
    macs: float  # multiplications and additions of a forward pass of one image
    cpu_hours: float  # of two CPU cores with AVX-512, about


# Images of each set to train with, their shape, and the number of classes.
_IMAGES = {
    "cifar10": (50_000, (32, 32, 3), 10),
    "cifar100": (50_000, (32, 32, 3), 100),
    "tiny_imagenet": (100_000, (64, 64, 3), 200),
}
# Images per second in training, 32x32, batches of 128, float32, on two shared cores of
# an AMD EPYC with AVX-512: benchmarks/results/train_step/cpu-float32-*-width1.json.
_RATES = {"BinaryNet": 130.0, "SgdatResNet18": 110.0}


def cost(name: str) -> Cost:
    """Returns what a task of `TASKS` costs.

    The hours are what was measured with images of 32x32, in proportion to the
    multiplications of the task's images; what other machines take was not measured.

    Args:
      name: a key of `TASKS`.
    """
    task = config(configs.CompareConfig, name)
    number, shape, _ = _IMAGES[task.dataset]
    images, macs = number * task.epochs, _macs(name, shape)
    seconds = images / _RATES[str(task.model)] * macs / _macs(name, (32, 32, 3))
    return Cost(images, macs, seconds / 3600)


@functools.cache  # a second for each network that is traced
def _macs(name: str, shape: tuple[int, ...]) -> float:
    from sgdat_jax import summary
    from sgdat_jax.experiments import setup

    task = config(configs.CompareConfig, name)
    images = setup.Shape(_IMAGES[task.dataset][2], shape)
    total = summary.total(setup.summarize(task, images))
    return total.binary_macs + total.real_macs
