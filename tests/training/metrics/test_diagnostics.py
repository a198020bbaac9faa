import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sgdat_jax as sj
import shared_runs
from sgdat_jax import run_folder
from sgdat_jax.experiments import setup
from sgdat_jax.training import steps
from sgdat_jax.training.metrics import diagnostics

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def lines():
    return run_folder.read_metrics(shared_runs.finished().folder)


def test_histograms_of_a_run_are_those_of_its_state(lines):
    opt_state = shared_runs.finished().state.opt_state
    counts = sj.layers_of(sj.flip_counts(opt_state))
    for name, shares in lines[-1]["flip_histogram_per_layer"].items():
        values = np.asarray(counts[name])
        edges = [0, 1, 2, 4, 8, 16, 32768]
        expected = np.histogram(values, edges)[0] / values.size
        np.testing.assert_allclose(shares[:6], expected, rtol=1e-6)
        assert sum(shares) == pytest.approx(1)
    values = np.concatenate([np.asarray(leaf).ravel() for leaf in counts.values()])
    assert lines[-1]["flip_histogram"][0] == pytest.approx(np.mean(values == 0))


def test_flips_of_an_epoch_are_what_the_counts_grew_by(lines):
    opt_state = shared_runs.finished().state.opt_state
    counts = jax.tree.leaves(sj.flip_counts(opt_state))
    mean = np.mean(np.concatenate([np.ravel(leaf) for leaf in counts]))
    flips = [22 * line["flip_ratio"] for line in lines]
    assert sum(flips) == pytest.approx(mean, rel=1e-5)
    for line, mean_flips in zip(lines, flips, strict=True):
        least = np.array([0, *(2**k for k in range(15))])
        shares = np.array(line["epoch_flip_histogram"])
        assert shares @ least <= mean_flips * (1 + 1e-5) < shares @ (2 * least)
    np.testing.assert_array_equal(
        lines[0]["epoch_flip_histogram"], lines[0]["flip_histogram"]
    )


def test_gradients_are_those_of_the_loss(lines):
    run = shared_runs.finished()
    start = shared_runs.fresh_state(run)
    batch = steps.Batch(
        jnp.asarray(run.dataset.train_images[:8]),
        jnp.asarray(run.dataset.train_labels[:8]),
    )
    for on in (True, False):
        task = run.task._replace(diagnostics=on)
        _, _, weights = jax.eval_shape(
            lambda s, task=task: steps.train_step(task, s, batch), start
        )
        assert (weights.gradients is not None) == on
    recorded = lines[-1]["gradient_per_layer"]
    assert set(recorded) >= {"conv1", "conv1/bias", "conv2", "dense5", "norm1/scale"}
    assert all(value >= 0 for value in recorded.values())
    assert recorded["conv2"] < recorded["dense5"]


def test_restarted_counts_are_the_flips_of_the_epoch():
    params = jnp.array([1.0, -1.0, 1.0, 1.0])
    tx = sj.sgdat(1.0, 0.0)
    opt_state = tx.init(params)
    for gradient in ([1, -1, -1, 0], [-3, 3, -1, 0]):
        _, opt_state = tx.update(jnp.array(gradient, jnp.float32), opt_state, params)
    found = jax.jit(diagnostics.diagnose)(opt_state, jnp.zeros(4, jnp.int16))
    np.testing.assert_array_equal(found.epoch_flip_histogram.total[:3], [0.5, 0, 0.5])
    grown = jax.jit(diagnostics.diagnose)(opt_state, jnp.array([1, 1, 0, 0], jnp.int16))
    np.testing.assert_array_equal(grown.epoch_flip_histogram.total[:3], [0.5, 0.5, 0])


def test_optimizers_without_latents_leave_margins_out():
    params = jnp.array([1.0, -1.0])
    found = diagnostics.diagnose(sj.bop().init(params), jnp.zeros(2, jnp.int16))
    assert found.margin_histogram is None
    assert found.flip_histogram.total[0] == 1


def test_powers_of_two():
    values = {"a": jnp.array([0.0, 0.3, 0.5, 0.99, jnp.inf]), "b": jnp.array([1e-9, 8])}
    shares = jax.jit(lambda v: diagnostics.log2_histogram(v, -3, 1))(values)
    np.testing.assert_allclose(shares, np.array([1, 1, 2, 1]) / 7, rtol=1e-6)


def test_off_leaves_the_program_as_it_was(lines):
    settings = dataclasses.replace(shared_runs.finished().config, diagnostics=False)
    run = shared_runs.finished()
    task, _ = setup.create(settings, run.dataset, run.steps_per_epoch)
    assert not task.diagnostics
