"""Files of IREE: their targets, their batches, and its own tool."""

import pathlib
import subprocess

import numpy as np
import pytest

import shared_runs
from sgdat_jax import inference, run_folder
from sgdat_jax.inference.export import iree, networks

pytestmark = pytest.mark.usefixtures("compiled_quickly")


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


def test_products_in_floats_stay_floats():
    pytest.importorskip("iree.compiler")
    file = shared_runs.finished().folder / run_folder.BEST
    network = networks.open_network(file, None, "uint8")
    in_bits = iree.content(network, networks.Options())
    in_floats = iree.content(network.with_products("float32"), networks.Options())
    assert len(in_floats) > 8 * len(in_bits)
