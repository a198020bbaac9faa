"""That products of signs by bits, and a whole training step, have not become slow.

By ratios with margins, as in `test_optimizer_step`.
"""

import argparse

import jax
import pytest

from benchmarks import products, timing, train_step

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="bits are for CPUs"),
]

ROUNDS = 30


@pytest.mark.parametrize("channels", [32, 64, 128, 512])
def test_a_convolution_by_bits_takes_less_than_one_of_floats(channels):
    case = products.CASES[f"3x3, {channels} channels"]
    programs = products.programs_of(32, *case)
    turns = [programs[name] for name in (products.BITS, products.FLOATS)]
    # Measured: 0.19 to 0.28.
    samples = timing.take_turns(turns, rounds=ROUNDS)
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
    # Measured: 0.83 at batch 64.
    samples = timing.take_turns([binary, full], rounds=ROUNDS)
    assert timing.paired_ratio(samples.wall, 0, 1).low < 1.1
