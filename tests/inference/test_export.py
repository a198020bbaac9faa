"""What is exported predicts what the network does, or is not left behind."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
import shared_runs
from sgdat_jax import inference, run_folder
from sgdat_jax.inference import weight_files
from sgdat_jax.inference.export import checks, formats, networks

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PACKAGES = {
    "stablehlo": (),
    "npz": (),
    "iree": ("iree.compiler", "iree.runtime"),
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("litert_converter", "ai_edge_litert"),
}


def run_file():
    return shared_runs.finished().folder / run_folder.BEST


def images_of_run(count=32):
    return shared_runs.finished().dataset.test_images[:count]


@functools.cache
def exported(name, **options):
    for package in PACKAGES[name]:
        pytest.importorskip(package)
    file = pathlib.Path(shared_runs.scratch().name, f"exported.{name}")
    folder = shared_runs.finished().folder
    return inference.export(folder, name, file, images=images_of_run(), **options)


_AT_ONCE = ("npz", "onnx")  # formats that take no compiler


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in _AT_ONCE else pytest.mark.whole)
        for name in PACKAGES
    ],
)
def test_a_file_predicts_what_the_network_does(name):
    report = exported(name)
    module = __import__(f"sgdat_jax.inference.export.{name}", fromlist=[name]).run
    network = networks.open_network(run_file(), None, "uint8")
    logits = module(report.file, network, networks.Options())(images_of_run())
    expected = np.asarray(inference.load(run_file())(images_of_run()))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    about = json.loads(pathlib.Path(f"{report.file}.json").read_text())
    assert about == json.loads(json.dumps(report.about))
    assert about["bytes"] == report.file.stat().st_size
    assert about["class_names"] == [str(digit) for digit in range(10)]
    assert about["check"]["images"] == 32
    assert about["check"]["except_where_rounding_decides"] == 0
    assert set(about["versions"]) == {"sgdat-jax", *formats.FORMATS[name].packages}


@pytest.mark.whole
@pytest.mark.parametrize("name", ["stablehlo", "iree", "onnx"])
def test_signs_stay_bits_in_files(name):
    model = nnx.eval_shape(lambda: sj.models.DigitsNet(rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    # DigitsNet is so small that code and names weigh half as much as its weights.
    assert exported(name).about["bytes"] < 4 * sum(leaf.size for leaf in leaves) / 9


@pytest.mark.whole
def test_stablehlo_needs_jax_alone():
    file = exported("stablehlo").file
    images = file.with_suffix(".npy")
    np.save(images, images_of_run(5))
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("sgdat_jax", "flax", "optax", "chex")))
import pathlib, jax, numpy
content = pathlib.Path({str(file)!r}).read_bytes()
exported = jax.export.deserialize(bytearray(content))
print(exported.platforms)
print(jax.jit(exported.call)(numpy.load({str(images)!r})).argmax(-1).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    platforms, classes = done.stdout.splitlines()
    assert platforms == "('cpu', 'cuda', 'tpu')"
    expected = inference.load(run_file())(images_of_run(5)).argmax(-1)
    assert json.loads(classes) == expected.tolist()


@pytest.mark.whole
def test_functions_are_exported_as_they_are(tmp_path):
    pytest.importorskip("onnxruntime")
    model = nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(0))
    function = inference.to_function(inference.fold(model, "float32"))
    shape = {"input_shape": (8, 8, 1), "input_dtype": "float32"}
    report = inference.export(function, "onnx", tmp_path / "net.onnx", **shape)
    assert report.about["check"]["random"]
    assert "network" not in report.about
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        inference.export(function, "onnx", tmp_path / "other.onnx")
    for name in ("npz", "torch"):
        with pytest.raises(ValueError, match=f"{name} needs a file of weights"):
            inference.export(function, name, tmp_path / "other", **shape)


@pytest.mark.whole
def test_what_predicts_otherwise_is_not_left_behind(tmp_path, monkeypatch):
    # Another network's content stands in the place of this one's.
    other = nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(1))
    about = weight_files.read_about(run_file())
    other_file = tmp_path / "other.npz"
    weight_files.write(
        other_file,
        about.spec,
        nnx.state(other, nnx.Param),
        nnx.state(other, nnx.BatchStat),
        {"mean": about.mean, "std": about.std},
    )
    from sgdat_jax.inference.export import stablehlo

    content = stablehlo.content

    def wrong(network, options):
        del network
        return content(networks.open_network(other_file, None, "uint8"), options)

    monkeypatch.setattr(stablehlo, "content", wrong)
    before = tmp_path / "net.stablehlo"
    before.write_text("of before")
    with pytest.raises(
        ValueError, match=r"predicts another class for \d+ of 32 images"
    ):
        inference.export(run_file(), "stablehlo", before, images=images_of_run())
    assert before.read_text() == "of before"
    assert {path.name for path in tmp_path.iterdir()} == {"net.stablehlo", "other.npz"}


def test_rounding_may_decide_and_nothing_else():
    network = networks.open_network(run_file(), None, "uint8")
    images = images_of_run()
    logits = np.asarray(network.function(images))
    assert checks.compare(network, images, logits)["logits_apart"]["largest"] == 0
    swapped = logits.copy()
    swapped[3] = -swapped[3]
    with pytest.raises(ValueError, match="another class for 1 of 32 images"):
        checks.compare(network, images, swapped)
    with pytest.raises(ValueError, match="logits of shape"):
        checks.compare(network, images, logits[:, :9])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("onxx",), "unknown format 'onxx'; the nearest is 'onnx'"),
        (("torch",), "torch holds the published networks, .*, got DigitsNet"),
    ],
)
def test_errors(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        inference.export(run_file(), *arguments, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_options_of_other_formats_are_refused(tmp_path):
    for option, value in (("target", "riscv64"), ("cpu", "host"), ("batch_size", 2)):
        with pytest.raises(ValueError, match=f"`{option}` is an option of iree"):
            inference.export(run_file(), "npz", tmp_path / "net", **{option: value})
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        inference.export(run_file(), "iree", tmp_path / "net", batch_size=0)
    with pytest.raises(ValueError, match="must not be that of the source"):
        inference.export(run_file(), "npz", run_file())
    with pytest.raises(ValueError, match=r"best\.npz in it, .* a folder without one"):
        inference.export(tmp_path, "npz", tmp_path / "net")


def test_a_place_that_no_file_can_have_is_refused_before_the_work(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(networks, "open_network", None)
    with pytest.raises(ValueError, match="must be in a folder that is there, got "):
        inference.export("digits", "npz", tmp_path / "no" / "net.npz")
    with pytest.raises(ValueError, match="`path` must be a file's, got the folder"):
        inference.export("digits", "npz", tmp_path)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    for name, module, extra in (
        ("iree", "iree.compiler", "export"),
        ("onnx", "onnx", "export"),
        ("litert", "litert_converter.converter_api_ext", "litert"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match=rf"pip install 'sgdat-jax\[{extra}\]'"):
            inference.export(run_file(), name, tmp_path / "net")


@pytest.mark.whole
def test_litert_takes_batches_of_its_size_and_products_in_floats(tmp_path):
    for package in PACKAGES["litert"]:
        pytest.importorskip(package)
    images = images_of_run(5)
    file = tmp_path / "net.tflite"
    report = inference.export(run_file(), "litert", file, images=images, batch_size=3)
    assert report.about["batch_size"] == 3
    assert report.about["check"]["classes"] == "equal"
    in_bits = inference.to_function(
        inference.fold(nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(0)))
    )
    shape = {"input_shape": (8, 8, 1), "input_dtype": "float32"}
    with pytest.raises(ValueError, match=r"LiteRT cannot hold .*fold\(model, 'float"):
        inference.export(in_bits, "litert", tmp_path / "other.tflite", **shape)
    assert not (tmp_path / "other.tflite").exists()
