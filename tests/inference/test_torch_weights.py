"""Weights go to PyTorch and come back; PyTorch's networks predict the same here."""

import pickle

import numpy as np
import pytest
from flax import nnx

import shared_runs
from sgdat_jax import cli, inference
from sgdat_jax.inference import torch_weights, weight_files
from sgdat_jax.inference.export import torch as torch_format
from sgdat_jax.inference.export import torch_names
from sgdat_jax.models import specs

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NETS = {"BinaryNet": 16, "ResNet18": 64}  # with the side of an image
# Float32 sums of another order, of the largest logit.
RTOL = 2e-6


def spec_and_arrays(model="BinaryNet", side=16, width=1 / 16):
    """A state_dict of random entries, as arrays, and what builds its network."""
    spec = specs.Spec(model, 5, (side, side, 3), width=width, unbiased_variance=True)
    rng = np.random.default_rng(0)
    arrays = dict(torch_names.unused(spec))
    for path, like in weight_files.by_path(nnx.state(spec.shapes())).items():
        ours = rng.normal(size=like.shape).astype(np.float32)
        theirs = torch_names.to_theirs(spec, path, ours)
        np.testing.assert_array_equal(torch_names.to_ours(spec, path, theirs), ours)
        arrays[torch_names.key_of(spec, path)] = theirs
    return spec, arrays


@pytest.mark.parametrize("name", NETS)
def test_networks_predict_what_pytorch_does(name, tmp_path):
    torch = pytest.importorskip("torch")
    import published_torch

    net = getattr(published_torch, name)()
    images, expected = published_torch.trained(net, NETS[name])
    wrapped = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "net.pth")
    for source in (net.state_dict(), tmp_path / "net.pth"):
        model = inference.from_torch(source)
        logits = inference.to_function(model)(images.permute(0, 2, 3, 1).numpy())
        atol = RTOL * np.abs(expected).max()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", NETS)
def test_pytorch_takes_what_is_exported(name, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    import published_torch

    net, empty = getattr(published_torch, name)(), getattr(published_torch, name)()
    images, expected = published_torch.trained(net, NETS[name])
    torch.save(net.state_dict(), tmp_path / "net.pth")
    weights, out = tmp_path / "net.npz", tmp_path / "net.safetensors"
    cli.main(["import", str(tmp_path / "net.pth"), "--out", str(weights)])
    cli.main(["export", str(weights), "--to", "torch", "--out", str(out)])
    assert empty.load_state_dict(safetensors.load_file(out), strict=True)
    with torch.no_grad():
        np.testing.assert_array_equal(empty.eval()(images).numpy(), expected)


def test_a_pickle_with_code_is_not_run(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(str(tmp_path / "ran"))))
    with pytest.raises(ValueError, match=r"torch\.save\(net\.state_dict\(\), path\)"):
        inference.from_torch(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_whole_modules_are_refused():
    nn = pytest.importorskip("torch").nn
    with pytest.raises(TypeError, match=r"pass its state_dict\(\)"):
        inference.from_torch(nn.Linear(2, 3))


def test_arrays_alone_are_enough():
    spec, arrays = spec_and_arrays()
    found, model = torch_weights.read(arrays)
    assert found == spec
    assert set(np.unique(model.dense7.kernel[...])) == {-1.0, 1.0}
    # Channel 1, row 0, column 1 of the map is entry 5 there, and (0, 1, 1) here.
    theirs = arrays["classifier.0.weight"][:, 5]
    ours = model.dense7.kernel[...].reshape(2, 2, -1, 64)[0, 1, 1]
    np.testing.assert_array_equal(ours, np.where(theirs >= 0, 1, -1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.3.weight": None}, "features.3.weight is missing"),
        ({"features.1.bias": np.ones(9)}, r"features.1.bias has the shape \(9,\)"),
        ({"features.22.weight": np.ones(9)}, "features.22.weight is unknown"),
        (
            {"features.1.bias": np.full(8, np.nan)},
            "features.1.bias has values that are ",
        ),
        ({"classifier.6.weight": None}, "not of the published .*classifier.6.weight"),
        ({"features.0.weight": None}, "not of the published BinaryNet or ResNet-18"),
    ],
)
def test_keys_that_do_not_fit_are_named(change, message):
    arrays = spec_and_arrays()[1] | change
    arrays = {key: value for key, value in arrays.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        inference.from_torch(arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"full_precision": ("conv3",)}, "full-precision layers, .* got conv3"),
        ({"pad_value": 1.0}, "cannot hold `pad_value` 1 of conv2"),
    ],
)
def test_what_pytorch_cannot_hold_is_named(options, message):
    spec = specs.Spec("BinaryNet", 5, (16, 16, 3), width=1 / 16, **options)
    with pytest.raises(ValueError, match=message):
        torch_format.check(spec)


@pytest.mark.whole
def test_the_commands(tmp_path, capsys):
    folder = str(shared_runs.finished().folder)
    cli.main(["export", folder, "--to", "npz", "--out", str(tmp_path / "copy.npz")])
    said = "the same classes as the network for 360 of 360 test images of digits"
    assert said in capsys.readouterr().out
    for words, message in (
        (["export", folder, "--to", "onxx", "--out", "x"], "the nearest is 'onnx'"),
        (["export", "nothing", "--to", "npz", "--out", "x"], "with a best.npz in it"),
        (["import", "nothing.safetensors", "--out", "x.npz"], "nothing.safetensors"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.whole
def test_random_images_are_said_to_be_random(tmp_path, capsys):
    spec, arrays = spec_and_arrays()
    model = torch_weights.read(arrays)[1]
    file = tmp_path / "net.npz"
    states = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    weight_files.write(file, spec, *states, {"mean": [0.5] * 3, "std": [0.5] * 3})
    cli.main(["export", str(file), "--to", "npz", "--out", str(tmp_path / "copy.npz")])
    assert "64 of 64 random images" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(file)])
    assert "does not tell which images" in capsys.readouterr().err
