"""Files of weights stay readable, and mean the same to the bit."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import inference
from sgdat_jax.experiments import setup
from sgdat_jax.inference import weight_files

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
_FILE = _GOLDEN / "digits.npz"
# Real-valued sums of at most 288 products, taken in another order on another machine.
_LOGIT_RTOL = 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bits"])
def test_logits_are_those_recorded(dtype):
    with np.load(_GOLDEN / "digits_logits.npz") as recorded:
        # GPUs and TPUs would shorten the operands of real-valued products.
        with jax.default_matmul_precision("highest"):
            logits = inference.load(_FILE, dtype)(recorded["images"])
        np.testing.assert_allclose(
            logits, recorded["logits"], rtol=_LOGIT_RTOL, atol=_LOGIT_RTOL
        )
        classes = recorded["logits"].argmax(-1)
    np.testing.assert_array_equal(logits.argmax(-1), classes)


def test_a_bit_is_a_weight_the_first_in_the_lowest():
    run = setup.restore_weights(_FILE)
    kernels = sj.layers_of(nnx.filter_state(run.state.params, sj.BinaryParam))
    assert {name: kernel.shape for name, kernel in kernels.items()} == {
        "conv2": (3, 3, 16, 16),
        "dense4": (128, 64),
    }
    with np.load(_FILE) as archive:
        for name, kernel in kernels.items():
            packed = archive[f"{name}/kernel"]
            assert (packed.dtype, packed.size) == (np.uint8, kernel.size // 8)
            for place in range(8):
                bits = packed >> place & 1
                np.testing.assert_array_equal(
                    np.ravel(kernel)[place::8], np.where(bits, 1.0, -1.0)
                )


def test_what_is_written_anew_has_the_same_arrays(tmp_path):
    run = setup.restore_weights(_FILE)
    about = weight_files.read_about(_FILE)
    state, file = run.state, tmp_path / "again.npz"
    details = {name: getattr(about, name) for name in ("mean", "std", "config")}
    weight_files.write(file, about.spec, state.params, state.stats, details)
    with np.load(_FILE) as old, np.load(file) as new:
        assert set(old.files) == set(new.files)
        for name in set(old.files) - {"about"}:
            assert (old[name].dtype, old[name].shape) == (
                new[name].dtype,
                new[name].shape,
            )
            np.testing.assert_array_equal(old[name], new[name])
    assert weight_files.read_about(file) == about


def test_weights_are_signs_and_real_layers_are_not():
    params = setup.restore_weights(_FILE).state.params
    by_name = sj.layers_of(params)
    assert jnp.abs(jnp.asarray(by_name["conv2"])).min() == 1
    assert 0 < np.abs(np.asarray(by_name["conv3"])).min() < 1
