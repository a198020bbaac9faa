"""The C programs of the guides, built and run on this machine and as on Arm.

On 64-bit Arm: by a cross compiler, ``qemu-aarch64``, and, for modules of IREE, the
``iree-run-module`` of the wheel for Arm, whose path is in `SGDAT_JAX_ARM_IREE`.
`SGDAT_JAX_IREE_RUNTIME` names a checkout of IREE whose runtime is built in its folder
``build`` as ``docs/export.md`` tells; then the example for it is built and run, too.
Its folder ``arm`` may have the runtime for Arm.
"""

import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

import guides
from sgdat_jax import inference

_EXAMPLES = guides.ROOT / "docs" / "examples"
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_ARM = "aarch64-linux-gnu"
_LIBRARIES = f"/usr/{_ARM}"  # where Debian's cross compiler has them


def tool(*names):
    """Returns the path of the first program that is there; skips if none is."""
    for name in names:
        if found := shutil.which(name):
            return found
    return pytest.skip(f"needs {' or '.join(names)}")


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def some_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)


def check(output, image):
    """Asserts that a program has printed what the network makes of an image."""
    logits = np.float32(re.findall(r"^logit \d: (.+)$", output, re.M))
    expected = np.asarray(inference.load("digits")(image[np.newaxis]))[0]
    # Printed with four digits.
    np.testing.assert_allclose(logits, expected, atol=2e-4)
    (label,) = re.findall(r"^class (\d)$", output, re.M)
    assert int(label) == expected.argmax()


def installed_digits():
    return pathlib.Path(inference.__file__).with_name("digits.npz")


def build_reader(compiler, folder, *options):
    program = folder / "predict"
    source = _EXAMPLES / "predict.c"
    run(compiler, "-std=c99", "-O2", *_WARNINGS, *options, "-o", program, source, "-lm")
    return program


def test_a_file_of_weights_is_read_by_c_alone(tmp_path):
    program = build_reader(tool("cc", "gcc", "clang"), tmp_path)
    for image in some_images(5):
        (tmp_path / "image.bin").write_bytes(image.tobytes())
        check(run(program, installed_digits(), tmp_path / "image.bin"), image)
    (tmp_path / "image.bin").write_bytes(b"short")
    done = subprocess.run(
        [program, installed_digits(), tmp_path / "image.bin"], capture_output=True
    )
    assert (done.returncode, done.stderr) == (1, b"cannot read image\n")


@pytest.mark.slow
def test_a_file_of_weights_is_read_on_arm(tmp_path):
    emulator = tool("qemu-aarch64", "qemu-aarch64-static")
    program = build_reader(tool(f"{_ARM}-gcc"), tmp_path, "-static")
    (image,) = some_images(1)
    (tmp_path / "image.bin").write_bytes(image.tobytes())
    check(run(emulator, program, installed_digits(), tmp_path / "image.bin"), image)


@pytest.mark.slow
def test_a_module_of_iree_runs_on_arm(tmp_path):
    pytest.importorskip("iree.compiler")
    emulator = tool("qemu-aarch64", "qemu-aarch64-static")
    runner = os.environ.get("SGDAT_JAX_ARM_IREE")
    if not runner:
        pytest.skip("needs SGDAT_JAX_ARM_IREE, the iree-run-module for Arm")
    images = some_images(5)
    module = tmp_path / "net.vmfb"
    inference.export("digits", "iree", module, images=images, target=_ARM)
    for image in images:
        (tmp_path / "image.bin").write_bytes(image.tobytes())
        run(
            *(emulator, "-L", _LIBRARIES, runner),
            *(f"--module={module}", "--device=local-sync"),
            f"--input=1x8x8x1xi8=@{tmp_path / 'image.bin'}",
            f"--output=@{tmp_path / 'logits.npy'}",
        )
        expected = inference.load("digits")(image[np.newaxis])
        logits = np.load(tmp_path / "logits.npy")
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def build_caller(compiler, folder, build="build"):
    """Returns the program that calls modules by IREE's runtime; skips without it."""
    checkout = pathlib.Path(os.environ.get("SGDAT_JAX_IREE_RUNTIME", "nowhere"))
    if not (checkout / build).is_dir():
        pytest.skip(f"needs SGDAT_JAX_IREE_RUNTIME, a checkout of IREE with {build}")
    archives = (
        checkout / build / "runtime/src/iree/runtime/libiree_runtime_unified.a",
        checkout / build / "build_tools/third_party/flatcc/libflatcc_parsing.a",
    )
    program = folder / "run_iree"
    run(
        *(compiler, "-O2", *_WARNINGS, "-isystem", checkout / "runtime/src"),
        *("-o", program, _EXAMPLES / "run_iree.c"),
        *(*archives, "-lm", "-lpthread", "-ldl"),
    )
    return program


@pytest.mark.slow
def test_the_runtime_of_iree_runs_a_module(tmp_path):
    pytest.importorskip("iree.compiler")
    program = build_caller(tool("cc", "gcc", "clang"), tmp_path)
    images = some_images(5)
    module, pixels = tmp_path / "net.vmfb", tmp_path / "image.bin"
    inference.export("digits", "iree", module, images=images)
    for image in images:
        pixels.write_bytes(image.tobytes())
        check(run(program, module, pixels, 8, 8, 1), image)
    # Called again and again it says the same, and how long it takes.
    often = run(program, module, pixels, 8, 8, 1, 100)
    check(often, images[-1])
    assert re.search(r"^\d+\.\d microseconds a call", often, re.M)
    done = subprocess.run([program, module, pixels, "9", "8", "1"], capture_output=True)
    assert done.returncode == 1
    assert done.stderr.endswith(b"must have 72 bytes\n")


@pytest.mark.slow
def test_the_runtime_of_iree_runs_a_module_on_arm(tmp_path):
    pytest.importorskip("iree.compiler")
    emulator = tool("qemu-aarch64", "qemu-aarch64-static")
    program = build_caller(tool(f"{_ARM}-gcc"), tmp_path, "arm")
    images = some_images(5)
    module, pixels = tmp_path / "net.vmfb", tmp_path / "image.bin"
    inference.export("digits", "iree", module, images=images, target=_ARM)
    for image in images:
        pixels.write_bytes(image.tobytes())
        check(run(emulator, "-L", _LIBRARIES, program, module, pixels, 8, 8, 1), image)
