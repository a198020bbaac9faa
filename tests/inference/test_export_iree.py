"""Files of IREE: the form of their sums, their targets, and its own tool."""

import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import shared_runs
from sgdat_jax import bits, inference, run_folder
from sgdat_jax.inference.export import iree, networks, words


def random_words(rng, *shape):
    return jnp.asarray(rng.integers(0, 2**32, shape, np.uint32))


@pytest.mark.parametrize("features", [96, 70])
@pytest.mark.parametrize(
    "geometry",
    [
        bits.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1)),
        bits.Geometry((2, 1), ((0, 2), (1, 0)), (1, 2)),
        bits.Geometry((1, 1), ((0, 0), (0, 0)), (1, 1)),
    ],
)
def test_sums_equal_those_of_the_other_form(geometry, features):
    rng = np.random.default_rng(0)
    signs = rng.normal(size=(2, 7, 6, features)), rng.normal(size=(3, 3, features, 5))
    x, kernel = (
        bits.pack(jnp.asarray(one, jnp.float32), axis)
        for one, axis in zip(signs, (-1, -2), strict=True)
    )
    expected = bits.sums_of_words(x, kernel, features, geometry)
    np.testing.assert_array_equal(words.sums(x, kernel, features, geometry), expected)


def test_sums_of_matrices():
    rng = np.random.default_rng(0)
    x, kernel = random_words(rng, 3, 40), random_words(rng, 40, 5)
    expected = bits.sums_of_words(x, kernel, 1280, bits.Geometry())
    sums = jax.jit(words.sums, static_argnums=(2, 3))
    np.testing.assert_array_equal(sums(x, kernel, 1280, bits.Geometry()), expected)


def test_a_file_takes_batches_of_its_size(tmp_path):
    pytest.importorskip("iree.compiler")
    pytest.importorskip("iree.runtime")
    file = shared_runs.finished().folder / run_folder.BEST
    images = shared_runs.finished().dataset.test_images[:7]
    report = inference.export(
        file, "iree", tmp_path / "net.vmfb", images=images, batch_size=3
    )
    network = networks.open_network(file, None, "uint8")
    run = iree.run(report.file, network, networks.Options(batch_size=3))
    expected = np.asarray(network.function(images))
    np.testing.assert_allclose(run(images), expected, rtol=1e-5, atol=1e-5)


def test_another_processor(tmp_path):
    pytest.importorskip("iree.compiler")
    pytest.importorskip("iree.runtime")
    file = shared_runs.finished().folder / run_folder.BEST
    images = shared_runs.finished().dataset.test_images[:7]
    target = "aarch64-linux-gnu" if iree.host() != "aarch64-linux-gnu" else "riscv64"
    report = inference.export(
        file, "iree", tmp_path / "net.vmfb", images=images, target=target
    )
    assert report.about["check"]["ran"] == "the same program, built here"
    assert report.about["target"] == target
    assert b"elf-arm_64" in report.file.read_bytes() or target == "riscv64"
    with pytest.raises(ValueError, match=r"must be a triple .*aarch64.*, got 'sparc'"):
        iree.content(
            networks.open_network(file, None, "uint8"), networks.Options("sparc")
        )


def test_the_tool_of_iree_runs_a_file(tmp_path):
    libraries = pytest.importorskip("iree._runtime_libs")
    pytest.importorskip("iree.compiler")
    tool = pathlib.Path(libraries.__file__).parent / "iree-run-module"
    file = shared_runs.finished().folder / run_folder.BEST
    image = shared_runs.finished().dataset.test_images[:1]
    report = inference.export(file, "iree", tmp_path / "net.vmfb", images=image)
    (tmp_path / "image.bin").write_bytes(image.tobytes())
    done = subprocess.run(
        [
            tool,
            f"--module={report.file}",
            "--device=local-sync",
            f"--input=1x8x8x1xi8=@{tmp_path / 'image.bin'}",
            f"--output=@{tmp_path / 'logits.npy'}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    logits = np.load(tmp_path / "logits.npy")
    expected = inference.load(file)(image)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_convolutions_of_few_channels():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    geometry = {
        "window_strides": (2, 1),
        "padding": ((1, 1), (0, 2)),
        "rhs_dilation": (1, 2),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    expected = lax.conv_general_dilated(x, kernel, **geometry)
    np.testing.assert_allclose(
        words.convolve(x, kernel, **geometry), expected, rtol=1e-5, atol=1e-5
    )


def test_products_in_floats_stay_floats():
    pytest.importorskip("iree.compiler")
    file = shared_runs.finished().folder / run_folder.BEST
    network = networks.open_network(file, None, "uint8")
    in_bits = iree.content(network, networks.Options())
    in_floats = iree.content(network.with_products("float32"), networks.Options())
    assert len(in_floats) > 8 * len(in_bits)
