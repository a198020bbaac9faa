"""What many TPUs send to each other when the state of a run is split among them."""

import collections

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import sgdat_jax as sj
import tpus
from benchmarks import hlo
from sgdat_jax.training import parallel

pytestmark = pytest.mark.tpu_compile


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5e:4x4", "v5e:16x16"])
def test_binary_weights_are_gathered_as_bits(topology):
    layout = parallel.lay_out(tpus.devices(topology), sharded=True)
    model = nnx.eval_shape(lambda: sj.models.BinaryNet(rngs=nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)

    def narrow(params):
        whole = layout.whole_params(params)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), whole)

    compiled = jax.jit(narrow).lower(layout.shapes(params)).compile()
    words = [
        one
        for one in hlo.collectives(tpus.program(compiled))
        if one.dtype.startswith("u")
    ]
    binary = jax.tree.leaves(sj.select_binary(params, params))
    least = sum(leaf.size for leaf in binary) / 8
    assert least <= sum(one.nbytes for one in words) < 1.1 * least
    kinds = collections.Counter()
    for one in words:
        kinds[one.kind] += one.nbytes
    # Near chips may add up zeros first, which sends a sixteenth twice.
    assert kinds["all-gather"] > 0.9 * sum(kinds.values())
