"""What many TPUs send to each other when the state of a run is split among them."""

import collections

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import sgdat_jax as sj
import tpus
from benchmarks import hlo
from sgdat_jax.training import ahead
from sgdat_jax.training.devices import parallel

pytestmark = [pytest.mark.tpu_compile, pytest.mark.usefixtures("without_cache")]


@pytest.mark.parametrize("count", [4, 16, 256])
def test_binary_weights_are_gathered_as_bits(count):
    layout = parallel.lay_out(tpus.devices(count), sharded=True)
    model = nnx.eval_shape(lambda: sj.models.BinaryNet(rngs=nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)

    tx = sj.partition_binary(params, binary=sj.sgdat(), real=optax.sgd(1e-3))
    opt_state = jax.eval_shape(tx.init, params)

    def narrow(params):
        whole = layout.whole_params(params, opt_state)
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


def test_gradients_are_reduced_and_scattered_where_the_state_is_split():
    split, copied = (tpus.sums(tpus.step(where)) for where in ("sharded", "copied"))
    params = jax.tree.leaves(ahead.state(tpus.plan("copied")).params)
    gradients = 2 * sum(leaf.size for leaf in params)  # in bfloat16
    assert "reduce-scatter" not in copied
    assert copied["all-reduce"] > gradients
    assert split["reduce-scatter"] > 0.95 * gradients
    # Statistics of batch normalization, and gradients of small arrays.
    assert split["all-reduce"] < 0.1 * gradients


def test_many_chips_send_half_for_gradients_where_the_state_is_split():
    sent = {
        where: sum(
            one.sent
            for one in hlo.collectives(tpus.program(tpus.step(where)))
            if one.kind != "all-gather"
        )
        for where in ("sharded", "copied")
    }
    assert sent["sharded"] < 0.6 * sent["copied"]
