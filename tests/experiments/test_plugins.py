"""A plug-in of one file, by commands and from Python, as its author would use it."""

import json

import pytest

import guides
from sgdat_jax import cli
from sgdat_jax.experiments import configs, hyperparameters, plugins, setup

pytestmark = pytest.mark.usefixtures(
    "compiled_quickly", "without_drawing", "kept_tables"
)

_FILE = guides.ROOT / "tests" / "plugin.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_here", "ModuleNotFoundError: No module named 'nothing_here'"),
        ("1 / 0", "ZeroDivisionError: division by zero ("),
        ("x = (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3 ("),
    ],
)
def test_plugin_that_fails(plugin_folder, text, message):
    (plugin_folder / "broken.py").write_text(f"{text}\n")
    with pytest.raises(
        ValueError, match=r"the plug-in \./broken\.py cannot be"
    ) as caught:
        plugins.load(["./broken.py"])
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="the plug-in no_such_module cannot be"):
        plugins.load(["no_such_module"])


def test_networks_options_that_a_plugin_does_not_take():
    plugins.load([str(_FILE)])
    config = configs.TrainConfig(dataset="blobs", model="PairNet", width=0.5)
    with pytest.raises(ValueError, match=r"PairNet takes no `width`, got width=0\.5"):
        setup.load(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_optimizer": "adamx"}, "unknown real optimizer 'adamx'; the nearest is"),
        ({"real_set": ("b3=0.5",)}, "adam has no `b3`, got b3=0.5; the nearest is `b"),
        ({"real_set": ("momentum=0.5",)}, "real_set must leave momentum to --real-mom"),
        (
            {"real_set": ("restart_every=5",)},
            "leave restart_every to --restart-real",
        ),
        ({"real_momentum": 0.5}, "adam has no `momentum`, got momentum=0.5"),
        (
            {"real_optimizer": "sgd", "real_momentum": 1.0},
            r"`momentum` must be in",
        ),
        (
            {"real_optimizer": "adamw", "restart_real_every_epoch": True},
            "adamw has no moments that can restart at every epoch",
        ),
    ],
)
def test_wrong_settings_of_the_real_optimizer(options, message):
    with pytest.raises(ValueError, match=message):
        configs.TrainConfig(**options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nesterov"], "set must be NAME=VALUE, got 'nesterov'"),
        (["threshold=1"], "set must leave threshold to --threshold"),
        (["restart_every=3"], "leave restart_every to --restart-binary-every-epoch"),
        (["nesterov=true", "nesterov=false"], "set must have nesterov once"),
        (["nesterof=true"], "sgdat has no `nesterof`.*nearest is `nesterov`"),
        (["weight_decay=1e39"], "weight_decay must be at most 3.4e.38 in float32"),
        ([f"weight_decay=1{400 * '0'}"], "weight_decay must be at most 3.4e.38"),
        (["weight_decay=[1]"], "weight_decay"),
    ],
)
def test_wrong_settings(words, message):
    with pytest.raises(ValueError, match=message):
        configs.TrainConfig(set=tuple(words))


def test_every_hyperparameter_can_be_set():
    for optimizer, words in {
        "sgdat": ("weight_decay=1e-4", "nesterov=true"),
        "prob_bop": ("alpha=0.5",),
        "boat": ("weight_decay=1e-4",),
        "diode": ("b1=0.8",),
    }.items():
        momentum = 0.9 if optimizer == "sgdat" else None
        config = configs.TrainConfig(optimizer=optimizer, momentum=momentum, set=words)
        given = config.hyperparameters()
        assert all(word.partition("=")[0] in given for word in words)


@pytest.mark.parametrize("value", [1e39, 1e-40])
@pytest.mark.parametrize("name", ["learning_rate", "threshold", "real_learning_rate"])
def test_what_float32_does_not_hold_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* in float32"):
        configs.TrainConfig(**{name: value})
    hyperparameters.check_float32(name, 1e-38 * 1.2)


def test_settings_from_files(plugin_folder, capsys):
    cli.main(["train", "--epochs", "3", "--set", "weight_decay=1e-4", "--print-config"])
    text = capsys.readouterr().out
    (plugin_folder / "mine.toml").write_text(text)
    cli.main(["train", "--config", "mine.toml", "--seed", "4", "--print-config"])
    assert capsys.readouterr().out == text.replace("seed = 0", "seed = 4")
    recorded = {"format": 1, **vars(configs.TrainConfig(epochs=7, run_dir="old"))}
    (plugin_folder / "config.json").write_text(json.dumps(recorded))
    cli.main(["train", "--config", "config.json", "--print-config"])
    found = capsys.readouterr().out
    assert "epochs = 7\n" in found
    assert "run_dir" not in found
    for name, message in {
        "none.toml": "none.toml",
        "torn.toml": "torn.toml is not TOML",
        "other.toml": "other.toml is not a run's config: ",
    }.items():
        (plugin_folder / "torn.toml").write_text("epochs = ")
        (plugin_folder / "other.toml").write_text("epoch = 3")
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", "--config", name])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
