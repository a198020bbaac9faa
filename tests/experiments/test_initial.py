"""Runs that start from the weights of others."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
import small_runs
from sgdat_jax import inference, run_folder
from sgdat_jax.experiments import configs, initial, setup
from sgdat_jax.inference import weight_files
from sgdat_jax.models import specs
from sgdat_jax.training import loop, runs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_TINY = configs.TrainConfig(model="TinyNet", epochs=1)
_KERNEL = "dense2/kernel"


def _trained(folder, **changes):
    config = dataclasses.replace(_TINY, run_dir=str(folder), seed=3, **changes)
    run, result = loop.train(setup.set_up(config), loop.Watcher())
    return run, result


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return _trained(tmp_path_factory.mktemp("binary") / "run")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "run"
    return _trained(folder, full_precision=("*",))[0]


def _started(init, **changes):
    config = dataclasses.replace(_TINY, init=str(init), **changes)
    return runs.begin(setup.plan(config, setup.load(config)), 0, None)


def _arrays(run):
    return weight_files.by_path(run.state.params) | weight_files.by_path(
        run.state.stats
    )


@pytest.mark.parametrize("name", ["", "best.npz"])
def test_a_trained_network_is_as_good_at_the_start(binary, name):
    run, result = binary
    started = _started(run.folder / name)
    assert loop.evaluate(started)["test_accuracy"] == result["test_accuracy"]
    found, expected = (
        _arrays(started),
        weight_files.read_arrays(run.folder / "best.npz"),
    )
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array)


@pytest.mark.parametrize(
    ("optimizer", "options", "scale"),
    [
        ("sgdat", {}, 1e-5),
        ("sgdat", {"learning_rate": 1e-2}, 1e-3),
        ("sgdat", {"init_scale": 0.5}, 0.5),
        ("adam", {}, 1e-2),
        ("lion_adaptive", {}, 1e-3),
        ("boat", {"set": ("start=params",)}, 1.0),
        ("sgdat", {"set": ("start=zero",)}, 0.0),
        ("boat", {}, 0.0),
    ],
)
def test_latent_weights_start_at_a_share_of_the_weights(
    real, optimizer, options, scale
):
    started = _started(real.folder, optimizer=optimizer, **options)
    kernel = weight_files.read_arrays(real.folder / "best.npz")[_KERNEL]
    assert not (np.abs(kernel) == 1).all()
    latents = sj.latent_weights(started.state.opt_state)
    (latent,) = weight_files.by_path(latents).values()
    np.testing.assert_array_equal(latent, np.float32(scale) * kernel)
    signs = np.where(kernel >= 0, 1, -1)
    np.testing.assert_array_equal(_arrays(started)[_KERNEL], signs)
    assert weight_files.by_path(started.state.params)[_KERNEL].dtype == np.float32


def test_weights_without_latent_weights_start_from_signs(real):
    started = _started(real.folder, optimizer="bop")
    kernel = weight_files.read_arrays(real.folder / "best.npz")[_KERNEL]
    np.testing.assert_array_equal(_arrays(started)[_KERNEL], np.sign(kernel))


def test_another_number_of_classes_takes_a_new_head(binary):
    file = str(binary[0].folder)
    spec = specs.Spec("TinyNet", 3, (8, 8, 1))
    found = initial.read(file, spec)
    assert found.fresh == (
        "dense3/bias",
        "dense3/kernel",
        "norm3/mean",
        "norm3/var",
    )
    assert _KERNEL in found.values
    told = initial.notes(file, found, spec, None)
    assert told == [
        f"weights start from {file}/best.npz (--init); dense3, norm3 start anew for 3 "
        "classes instead of 10",
        "latent weights start at 0, so the first gradients may flip many weights",
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "DigitsNet", "width": 0.1}, "conv1/bias is missing"),
        ({"init": "nowhere"}, "nowhere must be a file of weights, "),
        ({"init": "digits"}, "dense1/bias is missing, not of (64,); "),
    ],
)
def test_weights_of_another_network_are_refused(binary, tmp_path, changes, named):
    changes = {"init": str(binary[0].folder)} | changes
    config = dataclasses.replace(_TINY, run_dir=str(tmp_path / "run"), **changes)
    with pytest.raises(ValueError) as caught:
        setup.set_up(config)
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
def test_the_file_is_needed_at_the_start_alone(binary, tmp_path):
    init = shutil.copytree(binary[0].folder, tmp_path / "init")
    run, result = _trained(tmp_path / "run", init=str(init))
    assert run.dataset.notes[0] == f"weights start from {init}/best.npz (--init)"
    shutil.rmtree(init)
    again = setup.restore(tmp_path / "run")
    assert loop.evaluate(again)["test_accuracy"] == result["test_accuracy"]
    config = run_folder.read_config(tmp_path / "run", configs.TrainConfig)
    longer = setup.resume(dataclasses.replace(config, epochs=2))
    assert loop.train(longer, loop.Watcher())[1]["epochs"] == 2
    shutil.rmtree(tmp_path / "run" / run_folder.CHECKPOINTS)
    (tmp_path / "run" / run_folder.RESULT).unlink()
    with pytest.raises(ValueError, match=r"must be a file of weights, .* got no file"):
        setup.resume(dataclasses.replace(config, epochs=2))


@pytest.mark.parametrize(
    "options",
    [
        {"init_scale": 1.0},
        {"init": "x", "init_scale": -1.0},
        {"init": "x", "init_scale": 1.0, "optimizer": "bop"},
        {"init": "x", "init_scale": 1.0, "set": ("start=zero",)},
    ],
)
def test_scales_that_are_refused(options):
    with pytest.raises(ValueError, match=r"init_scale must be .*, got "):
        configs.TrainConfig(**options)


def test_a_model_out_of_a_file(binary):
    model = inference.load_model(pathlib.Path(binary[0].folder))
    assert isinstance(model, small_runs.TinyNet)
    sj.check_binary(nnx.state(model, nnx.Param))
    assert model.norm1.use_running_average is False
