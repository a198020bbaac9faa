"""What the options of a run do to its optimizers and its steps."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
import small_runs
from sgdat_jax import run_folder
from sgdat_jax.data import augment
from sgdat_jax.experiments import configs, setup
from sgdat_jax.models import specs
from sgdat_jax.training import loop, runs, steps

pytestmark = pytest.mark.usefixtures("compiled_quickly")

_STEPS_PER_EPOCH = 4
_SGD = {"real_optimizer": "sgd", "real_learning_rate": 1.0, "real_schedule": "constant"}


def _updates(gradients, **options):
    """Returns the updates of a real-valued weight by the optimizer of a run."""
    params = {"params": {"w": jnp.ones(4)}}
    settings = configs.TrainConfig(**options)
    tx = setup.create_optimizer(
        settings, params, _STEPS_PER_EPOCH, settings.hyperparameters()
    )
    opt_state, update, seen = tx.init(params), jax.jit(tx.update), []
    for gradient in gradients:
        tree = jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), params)
        updates, opt_state = update(tree, opt_state, params)
        seen.append(float(updates["params"]["w"][0]))
    return seen


@pytest.mark.parametrize("restart", [False, True])
def test_the_real_optimizer_restarts_at_an_epoch(restart):
    # Adam's first step is the learning rate, against the gradient's sign.
    seen = _updates(
        [1.0] * _STEPS_PER_EPOCH + [-1.0],
        real_schedule="constant",
        restart_real_every_epoch=restart,
    )
    assert seen[0] == pytest.approx(-1e-3, rel=1e-5)
    assert (seen[-1] == pytest.approx(1e-3, rel=1e-5)) == restart


def test_warm_up_takes_epochs():
    seen = _updates([1.0] * 10, real_warmup_epochs=2, **_SGD)
    np.testing.assert_allclose(seen, [-min(t / 8, 1) for t in range(10)], rtol=1e-6)


def test_gradients_are_clipped_to_the_norm_that_is_given():
    # Four entries of 3 have the norm 6.
    (clipped,) = _updates([3.0], clip_norm=0.5, **_SGD)
    assert clipped == pytest.approx(-3 * 0.5 / 6, rel=1e-6)
    (small,) = _updates([0.1], clip_norm=0.5, **_SGD)
    assert small == pytest.approx(-0.1, rel=1e-6)


def test_the_binary_schedule_is_of_the_whole_run():
    params = {"binary_params": {"w": jnp.ones(3)}}
    settings = configs.TrainConfig(
        optimizer="sgd", learning_rate=0.1, binary_schedule="cosine", epochs=2
    )
    tx = setup.create_optimizer(
        settings, params, _STEPS_PER_EPOCH, settings.hyperparameters()
    )
    opt_state, latents = tx.init(params), [0.0]
    for _ in range(2 * _STEPS_PER_EPOCH):
        _, opt_state = tx.update(params, opt_state, params)
        (latent,) = jax.tree.leaves(sj.latent_weights(opt_state))
        latents.append(float(latent[0]))
    t = np.arange(8)
    rates = 0.1 * (1 + np.cos(np.pi * t / 8)) / 2
    np.testing.assert_allclose(-np.diff(latents), rates, rtol=1e-5, atol=1e-7)


def _batch():
    data = small_runs.digits()
    return steps.Batch(
        jnp.asarray(data.train_images[: small_runs.BATCH]),
        jnp.asarray(data.train_labels[: small_runs.BATCH]),
    )


@functools.cache
def _task_and_state(**options):
    task, init = small_runs.task_and_init(small_runs.alone(), **options)
    return task, init(np.uint32(5))


def _step(batch, at=0, **options):
    """Takes a step of a run, as its step number `at`; returns state and record."""
    task, start = _task_and_state(**options)
    start = jax.tree.map(jnp.copy, start._replace(step=jnp.int32(at)))
    return loop.programs().train_batch(task, start, batch)


@pytest.mark.parametrize("at", [0, 7])
def test_images_are_flipped_anew_at_each_step(at):
    images, labels = _batch()
    key = jax.random.fold_in(jax.random.key(5), at)
    flips = augment.Augmentation(flip=True)
    flipped = steps.Batch(augment.augment(key, images, flips), labels)
    assert (flipped.images != images).any()
    _, (metrics, _) = _step(_batch(), at, crop_padding=0, flip=True)
    _, (expected, _) = _step(flipped, at, crop_padding=0)
    _, (unflipped, _) = _step(_batch(), at, crop_padding=0)
    # Two programs round sums of hundreds of images in another order.
    np.testing.assert_allclose(metrics.loss, expected.loss, rtol=1e-5)
    assert abs(float(metrics.loss[0] - unflipped.loss[0])) > 1e-2


def test_evaluation_is_without_label_smoothing():
    task, start = _task_and_state(label_smoothing=0.5)
    batch = _batch()
    weights = jnp.ones(len(batch.labels))
    metrics = loop.programs().eval_step(task, start, batch, weights)
    model = nnx.merge(task.eval_graph, start.params, start.stats)
    logits = nnx.jit(lambda model, x: model(x))(
        model, augment.normalize(batch.images, task.mean, task.std)
    )
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -shifted[np.arange(len(weights)), batch.labels].sum()
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)


def test_training_is_with_label_smoothing():
    batch = _batch()
    _, (metrics, _) = _step(batch, crop_padding=0, label_smoothing=0.5)
    task, start = _task_and_state(crop_padding=0)
    model = nnx.merge(task.train_graph, start.params, start.stats, copy=True)
    logits = nnx.jit(lambda model, x: model(x))(
        model, augment.normalize(batch.images, task.mean, task.std)
    )
    expected = steps._losses(logits, batch.labels, 0.5).sum()
    np.testing.assert_allclose(metrics.loss[0], expected, rtol=1e-5)


@jax.custom_vjp
def poison(x):
    """Returns x, with a gradient that is not a number."""
    return x


poison.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.nan,))


class PoisonedNet(small_runs.TinyNet):
    """Its loss is finite, the gradients of its first layer are not."""

    def __call__(self, images):
        return super().__call__(poison(images) + 0 * poison(self.dense1.bias[...][0]))


@pytest.fixture
def poisoned(monkeypatch):
    monkeypatch.setitem(specs.NETWORKS, "PoisonedNet", PoisonedNet)
    return "PoisonedNet"


def test_a_step_is_skipped_if_a_gradient_alone_is_not_finite(poisoned):
    options = {"model": poisoned, "diagnostics": True}
    _, before = _task_and_state(**options)
    after, (metrics, weights) = _step(_batch(), **options)
    assert int(weights.skipped[0]) == int(after.skipped) == 1
    assert float(metrics.examples[0]) == 0
    chex.assert_trees_all_equal(after.params, before.params)
    chex.assert_trees_all_equal(after.stats, before.stats)
    chex.assert_trees_all_equal(after.opt_state, before.opt_state)
    assert int(after.step) == 1
    _, (healthy, _) = _step(_batch(), diagnostics=True)
    assert float(healthy.examples[0]) == small_runs.BATCH


def test_of_equal_epochs_the_first_is_the_best(tmp_path):
    # With two test images there are few accuracies, and many epochs share one.
    data = small_runs.digits()
    data = data._replace(
        test_images=data.test_images[:2], test_labels=data.test_labels[:2]
    )
    settings = configs.TrainConfig(model="TinyNet", epochs=4, batch_size=479)
    plan = setup.plan(settings, data)
    run, result = loop.train(runs.begin(plan, 0, tmp_path / "run"), loop.Watcher())
    accuracies = [line["test_accuracy"] for line in run_folder.read_metrics(run.folder)]
    first = 1 + accuracies.index(max(accuracies))
    assert accuracies[first:].count(max(accuracies)) > 0
    assert result["best_epoch"] == first
    with np.load(run.folder / run_folder.BEST) as archive:
        about = json.loads(archive["about"].tobytes())
    assert about["reached"]["epoch"] == first


@pytest.mark.whole
def test_a_constant_channel_spoils_nothing(tmp_path):
    data = small_runs.digits()
    opaque = {
        part: np.concatenate([images, np.full_like(images, 255)], -1)
        for part in ("train_images", "test_images")
        for images in [getattr(data, part)]
    }
    settings = configs.TrainConfig(model="TinyNet", epochs=1, batch_size=479)
    plan = setup.plan(settings, data._replace(**opaque))
    assert plan.task.std[1] == 1.0
    _, result = loop.train(runs.begin(plan, 0, tmp_path / "run"), loop.Watcher())
    assert result["skipped_steps"] == 0
    assert result["test_accuracy"] > 0.3
