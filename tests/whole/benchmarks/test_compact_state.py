import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sgdat_jax as sj
from benchmarks import compact_state
from sgdat_jax import files

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize("bits", [5, 16])
def test_rounding_by_chance_is_right_on_average(bits):
    x = jnp.array([1.0, -1.0, 3.0e-8, 0.7, -123.456, 0.0])
    many = jnp.broadcast_to(x, (20_000, 6))
    found = compact_state.by_chance_to(jax.random.key(0), many, bits)
    np.testing.assert_array_equal(found, compact_state.nearest(found, bits))
    ulp = np.abs(x) * 2.0 ** (1 - bits)
    assert (np.abs(found - many) <= ulp).all()
    # Five standard errors of a mean of values at most an ulp apart.
    assert (np.abs(found.mean(0) - x) <= 5 * 0.5 * ulp / np.sqrt(20_000)).all()


def test_flips_that_one_side_makes_are_counted(monkeypatch):
    low, high = sj.sgdat(1.0, 0.0), sj.sgdat(1.0, 100.0)
    monkeypatch.setitem(compact_state.PAIRS, "two thresholds", (low, high))
    params = {"a": jnp.ones(2), "b": jnp.ones((1, 2))}
    pair = compact_state.begin("two thresholds", params)
    # Both flip the first weights; the way back is below the higher threshold.
    for a in (1.0, -3.0, -1.0, 300.0):
        gradients = {"a": jnp.array([a, -1.0]), "b": jnp.zeros((1, 2))}
        pair = compact_state.advance("two thresholds", pair, gradients)
    row = compact_state.measured("two thresholds", pair)
    assert (float(pair.flips), float(pair.apart)) == (3, 2)
    assert (row["flips"], row["apart"]) == (3 / 4, np.float32(2 / 3))
    assert (row["differ"], row["differ_most"]) == (0.0, 1 / 4)
    assert (row["error"], row["most_flips"], row["beyond_127"]) == (0.0, 3, 0.0)


def test_narrow_states_hold_no_more_than_their_bits():
    tx = compact_state.narrowed(
        sj.sgdat(1.0, 0.0, momentum=0.5), latent_bits=5, momentum_bits=8, max_flips=2
    )
    params = {"a": jnp.ones(100)}
    state, update = tx.init(params), jax.jit(tx.update)
    for step, gradient in enumerate(jax.random.normal(jax.random.key(0), (9, 100))):
        _, state = update({"a": gradient + 9 * (-1) ** step}, state, params)
    for tree, bits in ((state.latent, 5), (state.momentum, 8)):
        np.testing.assert_array_equal(tree["a"], compact_state.nearest(tree["a"], bits))
    assert int(sj.flip_counts(state)["a"].max()) == 2


def test_results_are_written(tmp_path, capsys):
    pairs = ["--pairs", "sgdat compact", "--steps", "500"]
    compact_state.main(["random", *pairs, "--out", str(tmp_path)])
    result = files.read_json(tmp_path / "decisions_random.json")
    (row,) = result["rows"]
    assert row["pair"] == "sgdat compact"
    assert 0 < row["apart"] < 0.01 < row["flips"]
    assert "compact" in capsys.readouterr().out


def test_steps_come_in_chunks(capsys):
    with pytest.raises(SystemExit):
        compact_state.parse(["random", "--steps", "30"])
    assert "--steps must be a multiple of 500, got 30" in capsys.readouterr().err
