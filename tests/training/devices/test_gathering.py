import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shared_runs
from sgdat_jax.training.devices import gathering, parallel

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SHAPES = [(), (0,), (3, 5), (10,), (64, 12), (12, 24, 36), (7, 16), (3, 3, 8, 10)]


def made(kind):
    """Arrays of all shapes, and which of them travel as bits."""
    drawn = np.random.default_rng(0)
    arrays = [drawn.normal(size=shape).astype(np.float32) for shape in SHAPES]
    signs = [np.where(array > 0, 1, -1).astype(kind) for array in arrays]
    return arrays + signs, [False] * len(arrays) + [True] * len(signs)


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("devices", "at_once"), [(4, 16), (6, 16), (8, 2), (8, 4)])
def test_arrays_are_whole_again(devices, at_once, kind, monkeypatch):
    monkeypatch.setattr(gathering, "_AT_ONCE", at_once)
    arrays, as_bits = made(kind)
    layout = parallel.lay_out(jax.devices()[:devices], sharded=True)
    split = [
        jax.device_put(array, shape.sharding)
        for array, shape in zip(arrays, layout.shapes(arrays), strict=True)
    ]

    @jax.jit
    def gather(split):
        return gathering.whole(layout.mesh, split, as_bits)

    found = gather(split)
    shared_runs.assert_bit_equal(found, arrays)
    assert all(array.is_fully_replicated for array in found)


@pytest.mark.parametrize(
    ("devices", "groups"),
    [(2, [2]), (8, [8]), (16, [16]), (24, [12, 2]), (64, [16, 4]), (256, [16, 16])],
)
def test_near_devices_exchange_first(devices, groups):
    sizes = gathering.splits.prime_factors(devices)
    stages = gathering._stages(sizes, range(len(sizes)))
    assert [int(np.prod([sizes[axis] for axis in stage])) for stage in stages] == groups
    assert sorted(itertools.chain(*stages)) == list(range(len(sizes)))
    assert stages[0][-1] == len(sizes) - 1


def test_long_vectors_fill_their_tiles(monkeypatch):
    monkeypatch.setattr(gathering, "_TILE", 16)
    arrays = [np.arange(8 * 300, dtype=np.float32).reshape(300, 8)]
    layout = parallel.lay_out(jax.devices(), sharded=True)
    gather = jax.jit(lambda arrays: gathering.whole(layout.mesh, arrays, [False]))
    split = [jax.device_put(arrays[0], layout.shapes(arrays)[0].sharding)]
    assert "f32[304]" in gather.lower(split).as_text("hlo")
    shared_runs.assert_bit_equal(gather(split), arrays)
