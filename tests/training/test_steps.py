import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
import shared_runs
from sgdat_jax.data import augment
from sgdat_jax.training import loop, steps

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def run():
    return shared_runs.finished()


@pytest.fixture(scope="module")
def data(run):
    return loop.on_device(run.dataset, run.task.layout)


def _train_step(run, state, data, start=0):
    """A step of the shared run's compiled program on one batch."""
    indices = jnp.arange(start, start + shared_runs.BATCH)[jnp.newaxis]
    state, record = loop.programs().train_steps(
        run.task, shared_runs.copy(state), data, indices
    )
    metrics, weights = jax.tree.map(lambda leaf: leaf[0], record)
    return state, metrics, weights


def _numpy_metrics(logits, labels):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    ranking = np.argsort(-logits, axis=1, kind="stable")
    hits = ranking[:, :5] == labels[:, np.newaxis]
    return len(labels), losses.sum(), hits[:, 0].sum(), hits.sum()


def test_train_step_moves_everything_and_keeps_binary_weights_binary(run, data):
    state = shared_runs.fresh_state(run)
    after, _, weight_metrics = _train_step(run, state, data)
    assert int(after.step) == 1
    for (path, old), new in zip(
        jax.tree.leaves_with_path(state.params),
        jax.tree.leaves(after.params),
        strict=True,
    ):
        assert (np.asarray(old) != np.asarray(new)).any(), path
    weights = sj.layers_of(nnx.filter_state(after.params, sj.BinaryParam))
    assert set(weights) == {"conv2", "conv3", "dense4"}
    for name, leaf in weights.items():
        assert set(np.unique(leaf)) == {-1.0, 1.0}, name
    for old, new in zip(
        jax.tree.leaves(state.stats), jax.tree.leaves(after.stats), strict=True
    ):
        assert (np.asarray(old) != np.asarray(new)).any()

    old = sj.layers_of(nnx.filter_state(state.params, sj.BinaryParam))
    flipped = {
        name: float(np.mean(np.asarray(old[name]) != np.asarray(weights[name])))
        for name in weights
    }
    ratios = sj.layers_of(weight_metrics.flips.per_leaf)
    for name, expected in flipped.items():
        assert 0 < expected < 1
        assert float(ratios[name]) == pytest.approx(expected, rel=1e-6)
    sizes = {name: leaf.size for name, leaf in weights.items()}
    total = sum(flipped[n] * sizes[n] for n in sizes) / sum(sizes.values())
    assert float(weight_metrics.flips.total) == pytest.approx(total, rel=1e-6)


def test_images_are_taken_from_rows_as_they_were(run, data):
    numbers = np.array([3, 0, 1436, 3])
    images, labels = data.take(numbers)
    assert data.rows.shape == (1437, 64)
    np.testing.assert_array_equal(images, run.dataset.train_images[numbers])
    np.testing.assert_array_equal(labels, run.dataset.train_labels[numbers])


def test_train_metrics_are_those_before_the_step(run, data):
    state = shared_runs.fresh_state(run, seed=3)
    _, metrics, _ = _train_step(run, state, data)
    images, labels = data.take(jnp.arange(shared_runs.BATCH))
    key = jax.random.fold_in(jax.random.key(3), 0)
    images = augment.random_crop(key, images, run.config.crop_padding)
    images = augment.normalize(images, run.task.mean, run.task.std)
    model = nnx.merge(run.task.train_graph, state.params, state.stats, copy=True)
    expected = _numpy_metrics(
        nnx.jit(lambda m, x: m(x))(model, images), np.asarray(labels)
    )
    # Loose: a product of signs may flip where rounding moves a value across zero.
    np.testing.assert_allclose(metrics, expected, rtol=2e-2)
    assert float(metrics.examples) == shared_runs.BATCH


def _evaluate(run, state, images, labels, weights):
    batch = steps.Batch(jnp.asarray(images), jnp.asarray(labels))
    return loop.programs().eval_step(
        run.task, state, batch, jnp.asarray(weights, jnp.float32)
    )


def test_eval_metrics_against_numpy(run):
    images, labels = run.dataset.test_images, run.dataset.test_labels
    stats = jax.tree.map(np.array, run.state.stats)
    metrics = _evaluate(run, run.state, images, labels, np.ones(len(labels)))
    model = nnx.merge(run.task.eval_graph, run.state.params, run.state.stats)
    images = augment.normalize(images, run.task.mean, run.task.std)
    logits = nnx.jit(lambda m, x: m(x))(model, images)
    expected = _numpy_metrics(logits, labels)
    np.testing.assert_allclose(metrics, expected, rtol=1e-2)
    assert 300 < expected[2] <= expected[3] <= 360
    shared_runs.assert_bit_equal(stats, run.state.stats)


def test_weights_mask_padding(run):
    images, labels = run.dataset.test_images, run.dataset.test_labels
    weights = np.arange(360) < 300
    whole = _evaluate(run, run.state, images, labels, weights)
    junk_images, junk_labels = images.copy(), labels.copy()
    junk_images[300:], junk_labels[300:] = 255, 3
    padded = _evaluate(run, run.state, junk_images, junk_labels, weights)
    shared_runs.assert_bit_equal(whole, padded)
    rest = _evaluate(run, run.state, images, labels, ~weights)
    both = _evaluate(run, run.state, images, labels, np.ones(360))
    for a, b, total in zip(whole, rest, both, strict=True):
        assert float(a + b) == pytest.approx(float(total), rel=1e-6)
    assert (float(whole.examples), float(rest.examples)) == (300, 60)
    cut = _evaluate(run, run.state, images[:300], labels[:300], np.ones(300))
    assert (whole.correct, whole.correct_top5) == (cut.correct, cut.correct_top5)
    assert float(whole.loss) == pytest.approx(float(cut.loss), rel=1e-5)


def test_nan_logits_score_no_better_than_chance(run):
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, run.state.params)
    images, labels = run.dataset.test_images, run.dataset.test_labels
    state = run.state._replace(params=nan)
    metrics = _evaluate(run, state, images, labels, np.ones(360))
    assert np.isnan(metrics.loss)
    assert float(metrics.correct) <= np.bincount(labels).max()


def test_step_compiles_once(run, data):
    state = shared_runs.fresh_state(run)
    state, *_ = _train_step(run, state, data)
    compiled = loop.programs().train_steps._cache_size()
    for start in (64, 128, 192):
        state, *_ = _train_step(run, state, data, start)
    assert loop.programs().train_steps._cache_size() == compiled
    assert int(state.step) == 4
