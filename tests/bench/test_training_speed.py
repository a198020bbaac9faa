"""That products of signs by bits, and a whole training step, have not become slow.

By ratios with margins, as in `test_optimizer_step`.
"""

import argparse
import functools

import jax
import numpy as np
import pytest
from jax import lax

import sgdat_jax as sj
from benchmarks import timing, train_step
from sgdat_jax import bits

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="bits are for CPUs"),
]

ROUNDS = 30


@pytest.mark.parametrize(("size", "channels"), [(32, 32), (16, 64), (8, 128), (8, 512)])
def test_a_convolution_by_bits_takes_less_than_one_of_floats(size, channels):
    geometry = bits.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding=geometry.pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    rng = np.random.default_rng(0)
    x, kernel = (
        jax.device_put(rng.choice(np.float32([-1, 1]), shape))
        for shape in ((32, size, size, channels), (3, 3, channels, channels))
    )
    programs = [
        functools.partial(
            jax.jit(product, compiler_options=sj.compiler_options()), x, kernel
        )
        for product in (
            functools.partial(bits.product, convolve, geometry, "float32"),
            convolve,
        )
    ]
    # Measured: 0.17 to 0.4.
    samples = timing.take_turns(programs, rounds=ROUNDS)
    assert timing.paired_ratio(samples.wall, 0, 1).median < 0.7


@pytest.mark.parametrize("model", ["BinaryNet", "SgdatResNet18"])
def test_a_binary_step_takes_no_longer_than_one_in_full_precision(model):
    options = argparse.Namespace(width=0.25, dtype="float32")
    data = train_step.made_images(32)
    binary, full = (
        train_step.training_steps(
            train_step.settings_of(model, 32, options, **variant), data
        )
        for variant in (
            train_step.VARIANTS["sgdat"],
            train_step.VARIANTS["full precision"],
        )
    )
    # Measured: 0.83 to 0.87 at batch 64.
    samples = timing.take_turns([binary, full], rounds=ROUNDS)
    assert timing.paired_ratio(samples.wall, 0, 1).low < 1.1
