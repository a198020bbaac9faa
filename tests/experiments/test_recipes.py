import dataclasses

import pytest

from sgdat_jax.cli import parsing
from sgdat_jax.data import augment
from sgdat_jax.experiments import configs, methods, recipes

_MODELS = {"binarynet": "BinaryNet", "resnet18": "SgdatResNet18"}


def test_every_experiment_of_the_paper_has_a_recipe():
    assert len(methods.PAPER) == 10
    assert set(recipes.RECIPES) - set(recipes.TASKS) == {
        f"{dataset}-{model}-{method}"
        for dataset in ("cifar10", "cifar100", "tiny_imagenet")
        for model in ("binarynet", "resnet18")
        for method in methods.PAPER
    }
    for name, settings in recipes.RECIPES.items():
        run = recipes.config(configs.TrainConfig, name)
        given = dataclasses.asdict(run)
        assert settings.items() <= given.items()
        assert run.dataset == name.split("-")[0]
        assert (
            run.model == {"b": "BinaryNet", "r": "SgdatResNet18"}[name.split("-")[1][0]]
        )
        assert (run.batch_size, run.flip, run.real_schedule) == (256, True, "constant")
        assert run.binary_schedule == "constant"
        assert run.restart_real_every_epoch
        assert run.restart_binary_every_epoch
        assert (run.clip_norm, run.label_smoothing, run.width) == (None, 0, 1)


def test_settings_are_the_papers():
    cifar = recipes.config(configs.TrainConfig, "cifar100-resnet18-sgdat_momentum")
    assert (cifar.epochs, cifar.normalization) == (200, "imagenet")
    assert _augmentation(cifar) == augment.Augmentation(4, True, False)
    assert (cifar.optimizer, cifar.momentum) == ("sgdat", 0.9)
    assert cifar.restarts_flips
    assert (cifar.real_optimizer, cifar.real_learning_rate) == ("adam", 1e-3)
    tiny = recipes.config(configs.TrainConfig, "tiny_imagenet-binarynet-sgdm_star")
    assert (tiny.epochs, tiny.normalization) == (100, "tiny_imagenet")
    assert _augmentation(tiny) == augment.Augmentation(0, True, True)
    assert (tiny.optimizer, tiny.momentum) == ("sgd", 0.9)
    assert not tiny.restarts_flips  # it has no flip counts that could
    assert (tiny.real_optimizer, tiny.real_learning_rate) == ("sgd", 1e-4)
    assert tiny.real_momentum == 0.9


def _augmentation(run):
    return augment.Augmentation(run.crop_padding, run.flip, run.resized_crop)


@pytest.mark.parametrize(
    "words",
    [
        "train --recipe cifar10-binarynet-bop --epochs 3 --no-flip",
        "--recipe=cifar10-binarynet-bop train --epochs 3 --no-flip",
        "train --epochs 3 --no-flip --recipe cifar10-binarynet-bop",
    ],
)
def test_options_override_a_recipe(words):
    expected = recipes.config(configs.TrainConfig, "cifar10-binarynet-bop")
    _, parsed = parsing.parse(words.split())
    assert parsed == dataclasses.replace(expected, epochs=3, flip=False)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("compare", configs.CompareConfig), ("sweep", configs.SweepConfig)],
)
def test_recipe_of_a_task_is_for_other_commands_too(name, kind):
    _, parsed = parsing.parse([name, "--recipe", "cifar10-resnet18", "--seeds", "2"])
    assert parsed == kind(**recipes.TASKS["cifar10-resnet18"], seeds=2)
    assert parsed.restart_real_every_epoch
    run = parsed.run("sgdat", 0) if name == "compare" else parsed.run()
    assert run.restarts_flips


def test_task_is_the_published_procedure_for_any_optimizer():
    words = ["train", "--recipe", "cifar10-binarynet"]
    _, published = parsing.parse([*words, "--optimizer", "sgdat"])
    assert (
        published == parsing.parse(["train", "--recipe", "cifar10-binarynet-sgdat"])[1]
    )
    _, other = parsing.parse([*words, "--optimizer", "boat"])
    assert (other.restart_real_every_epoch, other.restarts_flips) == (True, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train --recipe cifar10-binarynet-sgdt_",
            r"unknown recipe 'cifar10-binarynet-sgdt_'; the nearest is "
            r"'cifar10-binarynet-sgdt' \(recipes are DATASET-NETWORK\[-METHOD\]\)\.",
        ),
        (
            "compare --recipe cifar10-binarynet-sgdat",
            r"the nearest is 'cifar10-binarynet' \(recipes are DATASET-NETWORK\)",
        ),
        ("evaluate --recipe cifar10-binarynet runs/a", "evaluate takes no --recipe"),
        ("train --recipe", "--recipe must have one value, got train --recipe"),
        ("train --recipe a --recipe b", "--recipe must have one value"),
        (
            "train --recipe cifar10-binarynet-bop --momentum 0.9",
            "bop has no `momentum`",
        ),
    ],
)
def test_recipes_that_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parsing.parse(words.split())
