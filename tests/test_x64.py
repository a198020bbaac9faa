"""The library in a program of 64 bits."""

import pathlib

import pytest

import shared_runs

_GOLDEN = pathlib.Path(__file__).parent / "golden"
_SCRIPT = f"""
import jax
import numpy as np
import sgdat_jax as sj
from flax import nnx
from sgdat_jax import inference, testing

recorded = np.load({str(_GOLDEN / "digits_logits.npz")!r})
for dtype in ("bits", "float32", "bfloat16", "int8"):
    load = inference.load({str(_GOLDEN / "digits.npz")!r}, dtype)
    logits = load(recorded["images"])
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, recorded["logits"], rtol=1e-4, atol=1e-4)
model = sj.BinaryLinear(64, 8, rngs=nnx.Rngs(0))
x = jax.random.normal(jax.random.key(0), (40, 64))
assert x.dtype == "float64"
for dtype in ("bits", "float32", "bfloat16", "int8"):
    folded = inference.to_function(inference.fold(model, dtype))
    np.testing.assert_array_equal(folded(x), model(x))
testing.check_binary_optimizer(sj.sgdat(1e-4))
testing.check_binary_optimizer(sj.sgdat(1e-4, layout="compact"))
"""


@pytest.mark.slow
def test_files_fold_and_train_with_64_bits():
    done = shared_runs.python("-c", _SCRIPT, JAX_ENABLE_X64="1")
    assert (done.returncode, done.stderr) == (0, "")
