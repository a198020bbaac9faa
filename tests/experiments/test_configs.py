import dataclasses
import math
import pathlib

import pytest

from sgdat_jax.experiments import configs, methods


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", -3),
        ("batch_size", 0),
        ("crop_padding", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("real_learning_rate", -0.1),
        ("real_learning_rate", math.nan),
        ("real_learning_rate", math.inf),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("threshold", -1.0),
        ("threshold", math.nan),
        ("momentum", 1.0),
        ("momentum", -0.5),
        ("momentum", math.nan),
        ("real_warmup_epochs", -1),
        ("real_warmup_epochs", 20),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("stream_above", -1.0),
        ("save_every_minutes", 0.0),
        ("save_every_steps", 0),
        ("keep_states", 1),
        ("devices", 0),
        ("max_skipped_steps", 0),
        ("clip_norm", 0.0),
        ("clip_norm", math.nan),
    ],
)
def test_value_outside_its_range(name, value):
    with pytest.raises(ValueError, match=name) as caught:
        configs.TrainConfig(**{name: value})
    assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "2"),
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", None),
        ("crop_padding", 1.5),
        ("seed", 0.5),
        ("learning_rate", "1e-4"),
        ("momentum", False),
        ("reset_flips_every_epoch", "no"),
        ("reset_flips_every_epoch", 1),
        ("dataset", 5),
        ("model", ["DigitsNet"]),
        ("run_dir", 3),
        ("full_precision", "conv2"),
        ("full_precision", (2,)),
        ("full_precision", ["conv2"]),
    ],
)
def test_value_of_another_type(name, value):
    with pytest.raises(TypeError, match=f"{name} must be of type") as caught:
        configs.TrainConfig(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("dataset", "digit", "digits"),
        ("model", "digitnet", "DigitsNet"),
        ("optimizer", "sgdatt", "sgdat"),
        ("optimizer", "", None),
        ("input_sign", "swish", "swish_sign"),
        ("compute_dtype", "bfloat", "bfloat16"),
        ("normalization", "image_net", "imagenet"),
        ("real_schedule", "cosinus", "cosine"),
        ("binary_schedule", "cosinus", "cosine"),
    ],
)
def test_unknown_name_offers_the_nearest(name, value, nearest):
    with pytest.raises(ValueError, match=f"unknown .* '{value}'") as caught:
        configs.TrainConfig(**{name: value})
    assert "the nearest is '" in str(caught.value)
    if nearest:
        assert f"the nearest is {nearest!r}" in str(caught.value)


def test_edges_are_allowed_and_fields_are_frozen():
    edges = configs.TrainConfig(
        learning_rate=0,
        threshold=0.0,
        momentum=0.0,
        real_learning_rate=0,
        epochs=1,
        batch_size=1,
        crop_padding=0,
        seed=2**32 - 1,
    )
    assert edges.hyperparameters() == {
        "learning_rate": 0,
        "threshold": 0.0,
        "momentum": 0.0,
        "gamma": None,
        "sigma": None,
        "eta": None,
    }
    assert hash(edges) == hash(dataclasses.replace(edges))
    with pytest.raises(dataclasses.FrozenInstanceError):
        edges.seed = 1


def test_a_batch_of_one_image_has_no_unbiased_variance():
    with pytest.raises(ValueError, match="batch_size must be at least 2 with unbiased"):
        configs.TrainConfig(batch_size=1, unbiased_variance=True)


def test_comparison_checks_each_of_its_methods():
    configs.CompareConfig(binary_schedule="cosine")
    with pytest.raises(ValueError, match="boat has no rate for `binary_schedule`"):
        configs.CompareConfig(optimizers=("sgd", "boat"), binary_schedule="cosine")


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"reset_flips_every_epoch": True}, ("sgdat", "sgdat_restart")),
        ({"real_optimizer": "sgd", "real_learning_rate": 1e-4}, ("sgd_star", "sgd")),
    ],
)
def test_rows_of_a_comparison_must_differ(settings, same):
    configs.CompareConfig(optimizers=(*same, same[0]))
    with pytest.raises(ValueError, match=rf"{same[0]} and {same[1]} are the same\."):
        configs.CompareConfig(optimizers=("bop", *same), **settings)


def test_starred_rows_are_what_they_say_whatever_the_rest_is():
    comparison = configs.CompareConfig(real_optimizer="sgd", real_momentum=0.9)
    runs = {name: comparison.run(name, 0) for name in methods.METHODS}
    found = {
        name: (runs[name].real_optimizer, runs[name].real_momentum)
        for name in ("sgd_star", "sgdm_star", "adam_star", "sgdat")
    }
    assert found == {
        "sgd_star": ("sgd", None),
        "sgdm_star": ("sgd", 0.9),
        "adam_star": ("adam", None),
        "sgdat": ("sgd", 0.9),
    }


def test_methods_know_their_labels():
    defaults = dataclasses.asdict(configs.TrainConfig())
    for comparison in (
        configs.CompareConfig(),
        configs.CompareConfig(real_learning_rate=0.5, epochs=3),
    ):
        for name, method in methods.METHODS.items():
            settings = dataclasses.asdict(comparison.run(name, 0))
            assert methods.label_of(settings, defaults) == method.label
    restarted = configs.CompareConfig(
        reset_flips_every_epoch=True, restart_binary_every_epoch=True
    )
    labels = {
        name: methods.label_of(dataclasses.asdict(restarted.run(name, 0)), defaults)
        for name in ("sgdat", "sgdat_momentum", "sgdm_star", "adam_star", "sgdt", "bop")
    }
    assert labels == {
        "sgdat": "SGDAT, restarted every epoch",
        "sgdat_momentum": "SGDAT with momentum, restarted every epoch",
        "sgdm_star": "SGDM*, restarted every epoch",
        "adam_star": "Adam*, restarted every epoch",
        "sgdt": "SGDT",  # holds nothing that could restart
        "bop": "Bop",
    }


def test_default_folders_are_named_after_the_last_part_of_a_path():
    folder = "images/of letters/"
    task = {"dataset": folder, "model": "DigitsNet"}
    compare = configs.CompareConfig(**task).folder
    sweep = configs.SweepConfig(**task, optimizer="bop").folder
    assert compare == pathlib.Path("runs/compare-of-letters-DigitsNet")
    assert sweep == pathlib.Path("runs/sweep-of-letters-DigitsNet-bop")
