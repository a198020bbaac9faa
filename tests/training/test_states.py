import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import report, run_folder
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import loop, steps

_SMALL = {"width": 0.125, "epochs": 1, "batch_size": 479}


@pytest.fixture(scope="module")
def digits():
    return sources.digits()


def test_model_is_built_as_told(digits):
    settings = configs.TrainConfig(
        width=0.5,
        full_precision=("conv2",),
        pad_value=-1.0,
        input_sign="approx_sign",
        compute_dtype="bfloat16",
        unbiased_variance=True,
    )
    assert dataclasses.asdict(setup.spec_of(settings, digits).shapes().choices) == {
        "width": 0.5,
        "binary_layers": ("conv3", "dense4"),
        "full_precision": ("conv2",),
        "pad_value": -1.0,
        "input_quantizer": "approx_sign",
        "kernel_quantizer": "kernel_sign",
        "dtype": "bfloat16",
        "unbiased_variance": True,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0.0}, r"`width` must be in \(0, inf\), got 0.0"),
        ({"full_precision": ("conv9",)}, "'conv9', which fits none of the layers"),
        ({"pad_value": 2.0}, "`pad_value` must be"),
        ({"normalization": "imagenet"}, "is for images of 3 channels, digits has 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_every_command(settings, message):
    for kind in (configs.TrainConfig, configs.CompareConfig, configs.SweepConfig):
        with pytest.raises(ValueError, match=message):
            setup.load(kind(**settings))


def test_normalization_by_constants(digits):
    colored = digits._replace(
        train_images=np.repeat(digits.train_images, 3, axis=-1),
        test_images=np.repeat(digits.test_images, 3, axis=-1),
    )
    for name, mean in (("imagenet", 0.485), ("tiny_imagenet", 0.4802)):
        settings = configs.TrainConfig(normalization=name)
        task, _ = setup.create(settings, colored, 1)
        assert (len(task.mean), len(task.std), task.mean[0]) == (3, 3, mean)


def test_normalization_is_that_of_the_training_images(digits):
    task, _ = setup.create(configs.TrainConfig(), digits, 1)
    images = digits.train_images / 255
    # Exact sums of integers against NumPy's pairwise sums of their quotients.
    assert task.mean == (pytest.approx(images.mean(), rel=1e-12),)
    assert task.std == (pytest.approx(images.std(), rel=1e-12),)


@pytest.mark.slow
def test_clipping_is_of_all_gradients_together(digits):
    settings = configs.TrainConfig(
        **_SMALL,
        real_optimizer="sgd",
        real_learning_rate=1.0,
        real_schedule="constant",
        learning_rate=1.0,
        clip_norm=3.0,
    )
    task, _ = setup.create(settings, digits, 3)
    shapes = nnx.state(setup.spec_of(settings, digits).shapes(), nnx.Param)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    update = jax.jit(lambda ones: task.tx.update(ones, task.tx.init(ones), ones))
    updates, opt_state = update(ones)
    expected = 3.0 / optax.tree.norm(ones)
    for name, leaf in sj.layers_of(updates).items():
        if name not in task.choices.binary_layers:
            np.testing.assert_allclose(leaf, -expected, rtol=1e-6)
    latents = sj.layers_of(sj.latent_weights(opt_state))
    assert tuple(latents) == task.choices.binary_layers
    for leaf in latents.values():
        np.testing.assert_allclose(leaf, -expected, rtol=1e-6)


def test_label_smoothing_against_numpy():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = np.full((5, 4), 0.1 / 4)
    targets[np.arange(5), labels] += 0.9
    got = steps._losses(jnp.asarray(logits), jnp.asarray(labels), 0.1)
    np.testing.assert_allclose(got, -(targets * logs).sum(1), rtol=1e-5)


_REAL = {**_SMALL, "full_precision": ("*",), "diagnostics": True}


def test_step_of_a_network_without_binary_layers_has_no_flips(digits):
    settings = configs.TrainConfig(**_REAL, restart_real_every_epoch=True)
    task, init = setup.create(settings, digits, 3)
    batch = steps.Batch(jnp.zeros((2, 8, 8, 1), jnp.uint8), jnp.zeros(2, jnp.int32))
    before = jax.eval_shape(init, 0)
    after, (_, weights) = jax.eval_shape(
        lambda state: steps.train_batch(task, state, batch), before
    )
    shapes = jax.tree.map(lambda leaf: leaf.shape, (before, after))
    assert shapes[0] == shapes[1]
    assert weights.flips is None
    assert {leaf.shape for leaf in jax.tree.leaves(weights.gradients)} == {(1,)}


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """A run of a network that has no binary layer."""
    folder = str(tmp_path_factory.mktemp("real"))
    settings = configs.TrainConfig(**_REAL, label_smoothing=0.1, run_dir=folder)
    return loop.train(setup.set_up(settings), loop.Watcher())


@pytest.mark.slow
def test_network_without_binary_layers_trains(real_run):
    run, result = real_run
    assert not any("flip" in key for key in result)
    (line,) = run_folder.read_metrics(run.folder)
    assert not any("flip" in key for key in line)
    assert set(line["gradient_per_layer"]) > {"conv1", "conv2", "conv3", "dense4"}
    assert result["model"]["name"] == "DigitsNet"
    assert result["model"]["binary_layers"] == []
    assert result == json.loads((run.folder / "result.json").read_text())
    assert setup.restore(run.folder).config == run.config  # names of layers included
    paths = report.save_plots(run.folder / "plots", [line], run.state.opt_state)
    assert [path.name for path in paths] == ["learning.png"]


@pytest.mark.slow
def test_network_without_binary_layers_is_compared(real_run, tmp_path):
    run, result = real_run
    runs, skipped = report.read_runs([run.folder])
    assert skipped == []
    report.write_comparison(tmp_path, report.group_runs(runs))
    accuracy = f"{result['test_accuracy']:.2%}"[:-1]
    table = (tmp_path / "comparison.md").read_text()
    assert f"| 1 | 1 | {accuracy} | {accuracy} |  | " in table
    names = {path.name for path in tmp_path.iterdir()}
    assert {"accuracy.png", "gradients.png"} < names
    assert not any("flip" in name for name in names)
